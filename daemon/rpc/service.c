/*
 * The path of a request is the peer's choice: it is compared, never kept and never a label.
 */
#include "rpc/service.h"

#include <stdbool.h>
#include <string.h>

const char *const method_type_labels[METHOD_TYPE_COUNT] = {
#define X(identifier, label) [METHOD_##identifier] = (label),
    METHOD_TYPES(X)
#undef X
};

static bool method_matches(const struct method *method, const char *path, size_t length)
{
    size_t service_length = strlen(method->service);
    size_t name_length = strlen(method->name);

    return length == 1 + service_length + 1 + name_length && path[0] == '/' &&
           path[1 + service_length] == '/' &&
           memcmp(path + 1, method->service, service_length) == 0 &&
           memcmp(path + 1 + service_length + 1, method->name, name_length) == 0;
}

const struct method *method_table_find(const struct method_table *table, const char *path,
                                       size_t length)
{
    for (size_t i = 0; i < table->count; i++) {
        if (method_matches(table->methods[i], path, length))
            return table->methods[i];
    }
    return NULL;
}
