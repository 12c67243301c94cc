/*
 * The two small parts that every call uses: the method table and the shared message.
 */
#include "rpc/message.h"
#include "rpc/service.h"

#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
/* After the headers that it needs. */
#include <cmocka.h>

static const struct method one = {.service = "package.Service", .name = "One"};
static const struct method other = {.service = "package.Service", .name = "OneMore"};
static const struct method third = {.service = "package.Service2", .name = "One"};
static const struct method *const methods[] = {&one, &other, &third};

static const struct method *find(const char *path, size_t length)
{
    const struct method_table table = {.methods = methods, .count = ELEMENTSOF(methods)};
    char *copy = length > 0 ? memcpy(malloc(length), path, length) : NULL; /* no byte beyond it */
    const struct method *method = method_table_find(&table, copy, length);

    free(copy);
    return method;
}

static void test_find(void **state)
{
    static const char *const unknown[] = {
        "",
        "/",
        "//",
        "One",
        "/package.Service",
        "/package.Service/",
        "/package.Service/one",
        "/package.Service/One/",
        "/package.Service//One",
        "//package.Service/One",
        "package.Service/One",
        "xpackage.Service/One",
        "/package.ServicexOne",
        "/package.Service/Two",
        "/package.Servicf/One",
        "/package.Service2/OneMore",
        "/PACKAGE.SERVICE/ONE",
        "/package.Service/One?",
        "/package%2eService/One",
    };
    static const char longest[] = "/package.Service/OneMore";

    assert_ptr_equal(find("/package.Service/One", 20), &one);
    assert_ptr_equal(find("/package.Service/OneMore", 24), &other);
    assert_ptr_equal(find("/package.Service2/One", 21), &third);
    for (size_t i = 0; i < ELEMENTSOF(unknown); i++)
        assert_null(find(unknown[i], strlen(unknown[i])));
    assert_null(find("/package.Service/One\0", 21));
    for (size_t cut = 0; cut < sizeof(longest) - 1; cut++)
        assert_ptr_equal(find(longest, cut), cut == 20 ? &one : NULL);
    assert_null(method_table_find(&(struct method_table){0}, longest, sizeof(longest) - 1));
}

static void test_labels(void **state)
{
    assert_int_equal(METHOD_TYPE_COUNT, 4);
    assert_string_equal(method_type_labels[METHOD_UNARY], "unary");
    assert_string_equal(method_type_labels[METHOD_CLIENT_STREAM], "client_stream");
    assert_string_equal(method_type_labels[METHOD_SERVER_STREAM], "server_stream");
    assert_string_equal(method_type_labels[METHOD_BIDI_STREAM], "bidi_stream");
}

static void test_message(void **state)
{
    struct message *message = message_new(0x102);

    assert_non_null(message);
    assert_int_equal(message->size, 5 + 0x102);
    assert_memory_equal(message->bytes, "\0\0\0\1\2", 5);
    assert_ptr_equal(message_body(message), message->bytes + 5);
    memset(message_body(message), 'x', 0x102); /* all of it is there */

    assert_int_equal(message->references, 1);
    assert_ptr_equal(message_ref(message), message);
    assert_int_equal(message->references, 2);
    assert_null(message_unref(message));
    assert_int_equal(message->references, 1);
    assert_int_equal(message->bytes[message->size - 1], 'x');
    assert_null(message_unref(message)); /* freed: the sanitizer build would see a leak */
    assert_null(message_unref(NULL));

    message = message_new(0);
    assert_int_equal(message->size, 5);
    assert_memory_equal(message->bytes, "\0\0\0\0\0", 5);
    message_unref(message);

    /* With its prefix longer than a length can say. */
    assert_null(message_new(UINT32_MAX));
    assert_null(message_new(UINT32_MAX - 4));
}

static void test_message_from_bytes(void **state)
{
    struct message *message = message_from_bytes((const uint8_t *)"tail", 4);

    assert_int_equal(message->size, 4);
    assert_int_equal(message->references, 1);
    assert_memory_equal(message->bytes, "tail", 4);
    message_unref(message);

    message = message_from_bytes(NULL, 0);
    assert_int_equal(message->size, 0);
    message_unref(message);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_labels),
        cmocka_unit_test(test_message),
        cmocka_unit_test(test_message_from_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
