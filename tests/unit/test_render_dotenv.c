/* .env files: which values are found, and what is refused. */
#include "config/render/dotenv.h"

#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct fixture {
    struct config config;
    struct dotenv_variable variables[2]; /* A and B */
};

static struct fixture read_env(const char *bytes, size_t size)
{
    struct fixture fixture = {.variables = {{.name = "A"}, {.name = "B"}}};
    char *copy = malloc(size > 0 ? size : 1);

    assert_non_null(copy);
    memcpy(copy, bytes, size);
    assert_int_equal(dotenv_read(&fixture.config, "f", copy, size, fixture.variables, 2), 0);
    free(copy);
    return fixture;
}

static void end(struct fixture *fixture)
{
    free(fixture->variables[0].value);
    free(fixture->variables[1].value);
    config_deinit(&fixture->config);
}

static void finds(void **state)
{
    static const struct {
        const char *bytes;
        const char *value; /* of A */
        unsigned line;
    } cases[] = {
        {"", NULL, 0},
        {"\n \n\r\n#A=1\n  # A=1\n", NULL, 0},
        {"B=1", NULL, 0},
        {"AA=1\nA.A=1\n_=2", NULL, 0},
        {"A=1", "1", 1},
        {"A=1\n", "1", 1},
        {"A=1\r\n", "1", 1},
        {"\xef\xbb\xbf"
         "A=1",
         "1", 1},
        {"# x\n\n \tA \t= \t1 2 \t\nB=3", "1 2", 3},
        {"A: 1", "1", 1},
        {"A:1", "1", 1},
        {"A = a:b=c", "a:b=c", 1},
        {"export A=1", "1", 1},
        {"  export\tA=1", "1", 1},
        {"export=1\nA=2", "2", 2},
        {"exportA=1", NULL, 0},
        {"A=1\nB=9\nA=3", "3", 3},
        /* Nothing is a value, too. */
        {"A=", "", 1},
        {"A=\nB=1", "", 1},
        {"A= \t\r\n", "", 1},
        {"A=''", "", 1},
        {"A=\"\"", "", 1},
        {"A= # nothing", "", 1},
        /* Comments. */
        {"A=1 # x", "1", 1},
        {"A=1\t#x # y", "1", 1},
        {"A=1#x", "1#x", 1},
        {"A=#x", "#x", 1},
        {"A=\"1 # x\"#y", "1 # x", 1},
        {"A='1 # x' # y", "1 # x", 1},
        /* Quotes. */
        {"A='a b'", "a b", 1},
        {"A = \"a b\" ", "a b", 1},
        {"A: 'a b'", "a b", 1},
        {"A='a \"b\" $B \\n ${B}'", "a \"b\" $B \\n ${B}", 1},
        {"A=\"a 'b'\"", "a 'b'", 1},
        {"A=\"a \\\"b\\\" \\\\ \\x\"", "a \"b\" \\ x", 1},
        {"A=a'b'", "a'b'", 1},
        {"A=a\"b", "a\"b", 1},
        {"A=C:\\x\\n", "C:\\x\\n", 1},
        /* A dollar sign that begins no name. */
        {"A=a$", "a$", 1},
        {"A=$ b", "$ b", 1},
        {"A=\\$B", "$B", 1},
        {"A=\"\\$B $\"", "$B $", 1},
        {"A=\xc3\xa4\xff", "\xc3\xa4\xff", 1},
        /* What is for others is passed over, whatever it is, over lines. */
        {"C=$D ${E} $(f)\nA=1", "1", 2},
        {"C='x\nA=2\n'\nA=1", "1", 4},
        {"C=\"x\nA=2 \\\" \n\" # y\nA=1", "1", 4},
        {"C=\"\\n\\r\"\nA=1", "1", 2},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct fixture fixture = read_env(cases[i].bytes, strlen(cases[i].bytes));
        const char *value = fixture.variables[0].value;

        if (fixture.config.faults.count > 0)
            fail_msg("\"%s\": %s", cases[i].bytes, fixture.config.faults.text[0]);
        if (!value != !cases[i].value || (value && strcmp(value, cases[i].value) != 0))
            fail_msg("\"%s\" has \"%s\", not \"%s\"", cases[i].bytes, value ? value : "(none)",
                     cases[i].value ? cases[i].value : "(none)");
        assert_int_equal(fixture.variables[0].line, cases[i].line);
        end(&fixture);
    }
}

static void faults(void **state)
{
    static const struct {
        const char *bytes;
        const char *fault;
    } cases[] = {
        {"A", "f:1: A: this is not NAME=VALUE"},
        {"\nA B\r\n", "f:2: A B: this is not NAME=VALUE"},
        {"=1", "f:1: =1: this is not NAME=VALUE"},
        {"export =1", "f:1: export =1: this is not NAME=VALUE"},
        {"A B=1", "f:1: A B=1: this is not NAME=VALUE"},
        {"A-B=1", "f:1: A-B=1: this is not NAME=VALUE"},
        {"\xc3\xa4=1", "f:1: \xc3\xa4=1: this is not NAME=VALUE"},
        {"# x\n# y\nif true; then", "f:3: if true; then: this is not NAME=VALUE"},
        {"B=1\nA='x", "f:2: A='x: the quote has no end"},
        {"A=\"x\nB=1\n", "f:1: A=\"x: the quote has no end"},
        {"C=\"x\\\"", "f:1: C=\"x\\\": the quote has no end"},
        {"A=\"", "f:1: A=\": the quote has no end"},
        {"A='x\\", "f:1: A='x\\: the quote has no end"},
        {"A=\"x\" y", "f:1: A=\"x\" y: only a comment may follow the quote's end"},
        {"A='x'y", "f:1: A='x'y: only a comment may follow the quote's end"},
        {"C='x\n'y\n", "f:1: C='x: only a comment may follow the quote's end"},
        {"A=$B", "f:1: A: \"$\" before a name is not supported (\\$ is a dollar sign)"},
        {"\n\nA=a${B}c", "f:3: A: \"$\" before a name is not supported"},
        {"A=\"$B\"", "f:1: A: \"$\" before a name"},
        {"A=$(date)", "f:1: A: \"$\" before a name"},
        {"A=\\\\$B", NULL},
        {"A='x\ny'", "f:1: A: a control character is in the value"},
        {"C='\n\n'\nA=\"x\ny\"", "f:4: A: a control character is in the value"},
        {"A=\"x\\ny\"", "f:1: A: a control character is in the value"},
        {"A=\"x\\ry\"", "f:1: A: a control character is in the value"},
        {"A=a\rB=1", "f:1: A: a control character is in the value"},
        {"A=\x1b[2J", "f:1: A: a control character is in the value"},
        {"A\x1b=1", "f:1: A?=1: this is not NAME=VALUE"},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct fixture fixture = read_env(cases[i].bytes, strlen(cases[i].bytes));

        if (!cases[i].fault)
            assert_int_equal(fixture.config.faults.count, 0);
        else if (fixture.config.faults.count != 1)
            fail_msg("\"%s\" has %zu faults", cases[i].bytes, fixture.config.faults.count);
        else if (strncmp(fixture.config.faults.text[0], cases[i].fault, strlen(cases[i].fault)) !=
                 0)
            fail_msg("\"%s\": \"%s\", not \"%s\"", cases[i].bytes, fixture.config.faults.text[0],
                     cases[i].fault);
        end(&fixture);
    }
}

/* A bad value leaves what was said before, and what comes behind is read. */
static void goes_on(void **state)
{
    static const char bytes[] = "A=1\nA=$B\nnothing\nB=2\n";
    struct fixture fixture = read_env(bytes, strlen(bytes));

    assert_int_equal(fixture.config.faults.count, 2);
    assert_string_equal(fixture.variables[0].value, "1");
    assert_string_equal(fixture.variables[1].value, "2");
    assert_int_equal(fixture.variables[1].line, 4);
    end(&fixture);
}

static void nul(void **state)
{
    struct fixture fixture = read_env("A=1\0", 4);

    assert_int_equal(fixture.config.faults.count, 1);
    assert_string_equal(fixture.config.faults.text[0], "f: a NUL byte is in the file");
    end(&fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds),
        cmocka_unit_test(faults),
        cmocka_unit_test(goes_on),
        cmocka_unit_test(nul),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
