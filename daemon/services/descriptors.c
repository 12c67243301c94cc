/* See descriptors.h. */
#include "services/descriptors.h"

#include "base/util.h"
#include "google/protobuf/descriptor.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

typedef Google__Protobuf__FileDescriptorProto FileProto;
typedef Google__Protobuf__DescriptorProto MessageProto;
typedef Google__Protobuf__EnumDescriptorProto EnumProto;
typedef Google__Protobuf__ServiceDescriptorProto ServiceProto;
typedef Google__Protobuf__FieldDescriptorProto FieldProto;

/*
 * A set is a list of files, and so is the answer that reflection gives: field 1, repeated. There it
 * is of bytes, which is the same on the wire. Read as that, each file's bytes are there as the
 * compiler wrote them, with whatever protobuf-c would not understand.
 */
typedef Grpc__Reflection__V1__FileDescriptorResponse RawSet;

struct symbol {
    char *name;
    enum descriptor_kind kind;
    const struct descriptor_file *file;
};

struct descriptors {
    RawSet *set;        /* the bytes */
    FileProto **protos; /* without their comments; names are borrowed from them */
    struct descriptor_file *files;
    size_t file_count;
    const struct descriptor_file **closures; /* of all files, one after the other */
    struct symbol *symbols;                  /* by name */
    size_t symbol_count;
    size_t symbol_capacity;
    struct descriptor_extension *extensions; /* by type and number */
    size_t extension_count;
    size_t extension_capacity;
};

/* Makes room for one more item of `size` bytes. The array, moved perhaps; NULL: no memory. */
static void *grow(void *array, size_t count, size_t *capacity, size_t size)
{
    size_t wanted = MAX(2 * *capacity, (size_t)16);

    if (count < *capacity)
        return array;
    array = reallocarray(array, wanted, size);
    if (array)
        *capacity = wanted;
    return array;
}

/* ---- Symbols ---- */

/*
 * Adds `name` within `scope` ("" at the top of a file without a package). *ret_name, if it is not
 * NULL, gets the full name, a scope for what is within.
 */
static int add_symbol(struct descriptors *descriptors, const struct descriptor_file *file,
                      const char *scope, const char *name, enum descriptor_kind kind,
                      const char **ret_name)
{
    struct symbol *symbols = grow(descriptors->symbols, descriptors->symbol_count,
                                  &descriptors->symbol_capacity, sizeof(*symbols));
    char *full;

    if (!symbols)
        return -ENOMEM;
    descriptors->symbols = symbols;
    if (!name)
        return -EINVAL;
    if (asprintf(&full, "%s%s%s", scope, *scope ? "." : "", name) < 0)
        return -ENOMEM;
    symbols[descriptors->symbol_count++] = (struct symbol){full, kind, file};
    if (ret_name)
        *ret_name = full;
    return 0;
}

static int add_extension(struct descriptors *descriptors, const struct descriptor_file *file,
                         const char *scope, const FieldProto *field)
{
    struct descriptor_extension *extensions =
        grow(descriptors->extensions, descriptors->extension_count,
             &descriptors->extension_capacity, sizeof(*extensions));

    if (!extensions)
        return -ENOMEM;
    descriptors->extensions = extensions;
    /* The compiler writes the full name, with a dot before it to say so. */
    if (!field->extendee || field->extendee[0] != '.' || !field->has_number)
        return -EINVAL;
    extensions[descriptors->extension_count++] =
        (struct descriptor_extension){field->extendee + 1, field->number, file};
    return add_symbol(descriptors, file, scope, field->name, DESCRIPTOR_ANY, NULL);
}

static int add_enum(struct descriptors *descriptors, const struct descriptor_file *file,
                    const char *scope, const EnumProto *proto)
{
    int r = add_symbol(descriptors, file, scope, proto->name, DESCRIPTOR_ANY, NULL);

    for (size_t i = 0; r == 0 && i < proto->n_value; i++)
        r = add_symbol(descriptors, file, scope, proto->value[i]->name, DESCRIPTOR_ANY, NULL);
    return r;
}

static int add_message(struct descriptors *descriptors, const struct descriptor_file *file,
                       const char *scope, const MessageProto *proto)
{
    const char *name;
    int r = add_symbol(descriptors, file, scope, proto->name, DESCRIPTOR_MESSAGE, &name);

    for (size_t i = 0; r == 0 && i < proto->n_field; i++)
        r = add_symbol(descriptors, file, name, proto->field[i]->name, DESCRIPTOR_ANY, NULL);
    for (size_t i = 0; r == 0 && i < proto->n_oneof_decl; i++)
        r = add_symbol(descriptors, file, name, proto->oneof_decl[i]->name, DESCRIPTOR_ANY, NULL);
    for (size_t i = 0; r == 0 && i < proto->n_enum_type; i++)
        r = add_enum(descriptors, file, name, proto->enum_type[i]);
    for (size_t i = 0; r == 0 && i < proto->n_extension; i++)
        r = add_extension(descriptors, file, name, proto->extension[i]);
    for (size_t i = 0; r == 0 && i < proto->n_nested_type; i++)
        r = add_message(descriptors, file, name, proto->nested_type[i]);
    return r;
}

static int add_service(struct descriptors *descriptors, const struct descriptor_file *file,
                       const char *scope, const ServiceProto *proto)
{
    const char *name;
    int r = add_symbol(descriptors, file, scope, proto->name, DESCRIPTOR_SERVICE, &name);

    for (size_t i = 0; r == 0 && i < proto->n_method; i++)
        r = add_symbol(descriptors, file, name, proto->method[i]->name, DESCRIPTOR_ANY, NULL);
    return r;
}

static int add_symbols(struct descriptors *descriptors, const struct descriptor_file *file,
                       const FileProto *proto)
{
    const char *package = proto->package ? proto->package : "";
    int r = 0;

    for (size_t i = 0; r == 0 && i < proto->n_message_type; i++)
        r = add_message(descriptors, file, package, proto->message_type[i]);
    for (size_t i = 0; r == 0 && i < proto->n_enum_type; i++)
        r = add_enum(descriptors, file, package, proto->enum_type[i]);
    for (size_t i = 0; r == 0 && i < proto->n_service; i++)
        r = add_service(descriptors, file, package, proto->service[i]);
    for (size_t i = 0; r == 0 && i < proto->n_extension; i++)
        r = add_extension(descriptors, file, package, proto->extension[i]);
    return r;
}

static int compare_symbols(const void *one, const void *two)
{
    return strcmp(((const struct symbol *)one)->name, ((const struct symbol *)two)->name);
}

static int compare_extensions(const void *one, const void *two)
{
    const struct descriptor_extension *a = one;
    const struct descriptor_extension *b = two;
    int r = strcmp(a->type, b->type);

    return r != 0 ? r : (a->number > b->number) - (a->number < b->number);
}

/* ---- Files ---- */

static bool contains(const struct descriptor_file *const *files, size_t count,
                     const struct descriptor_file *file)
{
    for (size_t i = 0; i < count; i++) {
        if (files[i] == file)
            return true;
    }
    return false;
}

/* Writes the closure of a file: what is in it already tells what comes next. 0 or -EINVAL. */
static int close_file(const struct descriptors *descriptors, struct descriptor_file *file,
                      const struct descriptor_file **closure)
{
    size_t count = 0;

    closure[count++] = file;
    for (size_t i = 0; i < count; i++) {
        const FileProto *proto = descriptors->protos[closure[i]->index];

        for (size_t k = 0; k < proto->n_dependency; k++) {
            const struct descriptor_file *import =
                descriptors_find_file(descriptors, proto->dependency[k]);

            if (!import)
                return -EINVAL;
            if (!contains(closure, count, import))
                closure[count++] = import;
        }
    }
    file->closure = closure;
    file->closure_count = count;
    return 0;
}

static int read_files(struct descriptors *descriptors)
{
    for (size_t i = 0; i < descriptors->file_count; i++) {
        const ProtobufCBinaryData *raw = &descriptors->set->file_descriptor_proto[i];
        FileProto *proto =
            google__protobuf__file_descriptor_proto__unpack(NULL, raw->len, raw->data);

        descriptors->protos[i] = proto;
        if (!proto || !proto->name)
            return -EINVAL;
        /* The comments are most of what is unpacked, and only the bytes are for others. */
        if (proto->source_code_info)
            google__protobuf__source_code_info__free_unpacked(TAKE_PTR(proto->source_code_info),
                                                              NULL);
        descriptors->files[i] = (struct descriptor_file){
            .name = proto->name, .index = i, .bytes = raw->data, .size = raw->len};
    }
    return 0;
}

static int make_index(struct descriptors *descriptors)
{
    size_t count = descriptors->file_count;
    int r = read_files(descriptors);

    for (size_t i = 0; r == 0 && i < count; i++)
        r = close_file(descriptors, &descriptors->files[i], descriptors->closures + i * count);
    for (size_t i = 0; r == 0 && i < count; i++)
        r = add_symbols(descriptors, &descriptors->files[i], descriptors->protos[i]);
    if (r < 0)
        return r;
    if (descriptors->symbol_count > 0)
        qsort(descriptors->symbols, descriptors->symbol_count, sizeof(descriptors->symbols[0]),
              compare_symbols);
    if (descriptors->extension_count > 0)
        qsort(descriptors->extensions, descriptors->extension_count,
              sizeof(descriptors->extensions[0]), compare_extensions);
    return 0;
}

static void cleanup_descriptors(struct descriptors **descriptors)
{
    descriptors_free(*descriptors);
}

int descriptors_new(struct descriptors **ret_descriptors, const uint8_t *set, size_t size)
{
    _cleanup_(cleanup_descriptors) struct descriptors *descriptors =
        calloc(1, sizeof(*descriptors));
    size_t count;
    int r;

    if (!descriptors)
        return -ENOMEM;
    descriptors->set = grpc__reflection__v1__file_descriptor_response__unpack(NULL, size, set);
    if (!descriptors->set)
        return -EINVAL;
    count = descriptors->set->n_file_descriptor_proto;
    /* Never of nothing, for which calloc() may return NULL. */
    descriptors->protos = calloc(count + 1, sizeof(FileProto *));
    descriptors->files = calloc(count + 1, sizeof(struct descriptor_file));
    descriptors->closures = calloc(count * count + 1, sizeof(struct descriptor_file *));
    if (!descriptors->protos || !descriptors->files || !descriptors->closures)
        return -ENOMEM;
    descriptors->file_count = count;
    r = make_index(descriptors);
    if (r == 0)
        *ret_descriptors = TAKE_PTR(descriptors);
    return r;
}

struct descriptors *descriptors_free(struct descriptors *descriptors)
{
    if (!descriptors)
        return NULL;
    for (size_t i = 0; i < descriptors->file_count; i++) {
        if (descriptors->protos[i])
            google__protobuf__file_descriptor_proto__free_unpacked(descriptors->protos[i], NULL);
    }
    for (size_t i = 0; i < descriptors->symbol_count; i++)
        free(descriptors->symbols[i].name);
    if (descriptors->set)
        grpc__reflection__v1__file_descriptor_response__free_unpacked(descriptors->set, NULL);
    free(descriptors->protos);
    free(descriptors->files);
    free(descriptors->closures);
    free(descriptors->symbols);
    free(descriptors->extensions);
    free(descriptors);
    return NULL;
}

/* ---- Looking up ---- */

size_t descriptors_file_count(const struct descriptors *descriptors)
{
    return descriptors->file_count;
}

const struct descriptor_file *descriptors_find_file(const struct descriptors *descriptors,
                                                    const char *name)
{
    for (size_t i = 0; i < descriptors->file_count; i++) {
        if (strcmp(descriptors->files[i].name, name) == 0)
            return &descriptors->files[i];
    }
    return NULL;
}

const struct descriptor_file *descriptors_find_symbol(const struct descriptors *descriptors,
                                                      const char *name, enum descriptor_kind kind)
{
    const struct symbol key = {.name = (char *)name};
    const struct symbol *found = NULL;

    if (descriptors->symbol_count > 0)
        found = bsearch(&key, descriptors->symbols, descriptors->symbol_count, sizeof(key),
                        compare_symbols);
    return found && (kind == DESCRIPTOR_ANY || kind == found->kind) ? found->file : NULL;
}

size_t descriptors_find_extensions(const struct descriptors *descriptors, const char *type,
                                   const struct descriptor_extension **ret_extensions)
{
    size_t first = 0, end;

    while (first < descriptors->extension_count &&
           strcmp(descriptors->extensions[first].type, type) != 0)
        first++;
    end = first;
    while (end < descriptors->extension_count &&
           strcmp(descriptors->extensions[end].type, type) == 0)
        end++;
    *ret_extensions = end > first ? descriptors->extensions + first : NULL;
    return end - first;
}
