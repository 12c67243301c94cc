/* Templates: what becomes of each, as Go's text/template has it, and what is refused. */
#include "config/render/template.h"

#include "base/util.h"
#include "config/render/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct template_value values[] = {
    {"IP", "192.0.2.5"}, {"Port", "2112"}, {"ClientPort", "2113"}};

struct fixture {
    struct config config;
    struct text text;
};

static struct fixture render(const char *template, size_t size)
{
    struct fixture fixture = {0};
    char *copy = malloc(MAX(size, (size_t)1)); /* so that the sanitizer sees its end */

    assert_non_null(copy);
    memcpy(copy, template, size);
    assert_int_equal(template_render(&fixture.config, "a.yml", copy, size, values,
                                     ELEMENTSOF(values), &fixture.text),
                     0);
    free(copy);
    return fixture;
}

static void end(struct fixture *fixture)
{
    text_deinit(&fixture->text);
    config_deinit(&fixture->config);
}

static void becomes(void **state)
{
    static const struct {
        const char *template;
        const char *text;
    } cases[] = {
        {"", ""},
        {"nothing", "nothing"},
        {"{{.IP}}", "192.0.2.5"},
        {"{{.IP}}:{{.Port}} and {{.ClientPort}}", "192.0.2.5:2112 and 2113"},
        {"{{ .IP }}", "192.0.2.5"},
        {"{{\t.IP\r\n}}", "192.0.2.5"},
        {"{{\n\n.IP}}", "192.0.2.5"},
        /* What is no pair of braces is nothing. */
        {"{ {.IP} }", "{ {.IP} }"},
        {"}} { }", "}} { }"},
        {"{{.IP}}}}", "192.0.2.5}}"},
        {"{{.IP}}{", "192.0.2.5{"},
        {"{", "{"},
        /* Any byte but NUL. */
        {"a\r\nb\r\n", "a\r\nb\r\n"},
        {"\xef\xbb\xbf\xc3\xa4\xff\x01", "\xef\xbb\xbf\xc3\xa4\xff\x01"},
        /* Markers take the text away that is beside them, and never a value. */
        {"a \t\r\n {{- .IP}} b", "a192.0.2.5 b"},
        {"a {{.IP -}} \n b", "a 192.0.2.5b"},
        {"a {{- .IP -}} b", "a192.0.2.5b"},
        {"a {{-\n.IP\n-}} b", "a192.0.2.5b"},
        {"a {{-   .IP   -}} b", "a192.0.2.5b"},
        {" {{- .IP -}} ", "192.0.2.5"},
        {"{{.IP}} {{- .Port}}", "192.0.2.52112"},
        {"{{.IP -}} {{.Port}}", "192.0.2.52112"},
        {"{{.IP -}} {{- .Port}}", "192.0.2.52112"},
        {"{{.IP -}}", "192.0.2.5"},
        {"a\v{{- .IP}}", "a\v192.0.2.5"},
        {"a -{{.IP}}- b", "a -192.0.2.5- b"},
        /* Comments. */
        {"a {{/* why */}} b", "a  b"},
        {"a {{- /* why */ -}} b", "ab"},
        {"a {{-\t/* why */\n-}} b", "ab"},
        {"{{/* two\nlines, {{.None}} */}}b", "b"},
        {"{{/**/}}b", "b"},
        {"{{/* * / */}}b", "b"},
        {"{{/* */ -}}\n\n{{.IP}}", "192.0.2.5"},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct fixture fixture = render(cases[i].template, strlen(cases[i].template));

        if (fixture.config.faults.count > 0)
            fail_msg("\"%s\": %s", cases[i].template, fixture.config.faults.text[0]);
        if (fixture.text.size != strlen(cases[i].text) ||
            (fixture.text.size > 0 &&
             memcmp(fixture.text.bytes, cases[i].text, fixture.text.size) != 0))
            fail_msg("\"%s\" is \"%.*s\", not \"%s\"", cases[i].template, (int)fixture.text.size,
                     fixture.text.size > 0 ? fixture.text.bytes : "", cases[i].text);
        end(&fixture);
    }
}

#define THERE_ARE "; there are {{.IP}}, {{.Port}} and {{.ClientPort}}"
#define ONLY "only placeholders and comments are understood" THERE_ARE
#define UNKNOWN "there is no such placeholder" THERE_ARE
#define AT_ONCE "}} or \" -}}\" must follow the comment at once"

static void faults(void **state)
{
    static const struct {
        const char *template;
        const char *fault;
    } cases[] = {
        {"{{.Prot}}", "a.yml:1: {{.Prot}}: " UNKNOWN},
        {"a\r\nb\n\n {{.ip}}\n", "a.yml:4: {{.ip}}: " UNKNOWN},
        {"{{ .IPs }}", "a.yml:1: {{ .IPs }}: " UNKNOWN},
        {"{{.I}}", "a.yml:1: {{.I}}: " UNKNOWN},
        {"{{\n.None\n}}", "a.yml:1: {{?.None?}}: " UNKNOWN},
        {"{{.None -}}", "a.yml:1: {{.None -}}: " UNKNOWN},
        {"{{}}", "a.yml:1: {{}}: " ONLY},
        {"{{ }}", "a.yml:1: {{ }}: " ONLY},
        {"{{.}}", "a.yml:1: {{.}}: " ONLY},
        {"{{. IP}}", "a.yml:1: {{. IP}}: " ONLY},
        {"{{IP}}", "a.yml:1: {{IP}}: " ONLY},
        {"{{$.IP}}", "a.yml:1: {{$.IP}}: " ONLY},
        {"{{.IP.Port}}", "a.yml:1: {{.IP.Port}}: " ONLY},
        {"{{.IP .Port}}", "a.yml:1: {{.IP .Port}}: " ONLY},
        {"{{.IP | printf \"%s\"}}", "a.yml:1: {{.IP | printf \"%s\"}}: " ONLY},
        {"{{if .IP}}x{{end}}", "a.yml:1: {{if .IP}}: " ONLY},
        {"{{{.IP}}}", "a.yml:1: {{{.IP}}: " ONLY},
        {"{{`x`}}", "a.yml:1: {{`x`}}: " ONLY},
        {"{{.\xc3\xa4}}", "a.yml:1: {{.\xc3\xa4}}: " ONLY},
        /* A marker needs its blank. */
        {"{{-.IP}}", "a.yml:1: {{-.IP}}: " ONLY},
        {"{{.IP-}}", "a.yml:1: {{.IP-}}: " ONLY},
        {"{{- -}}", "a.yml:1: {{- -}}: " ONLY},
        {"{{--}}", "a.yml:1: {{--}}: " ONLY},
        {"{{ - .IP}}", "a.yml:1: {{ - .IP}}: " ONLY},
        {"{{.IP - }}", "a.yml:1: {{.IP - }}: " ONLY},
        /* What has no end. */
        {"a{{", "a.yml:1: {{: the {{ has no }}"},
        {"a{{.IP", "a.yml:1: {{.IP: the {{ has no }}"},
        {"a{{.IP}", "a.yml:1: {{.IP}: the {{ has no }}"},
        {"a{{.IP }\n more", "a.yml:1: {{.IP }: the {{ has no }}"},
        {"a{{.IP -}", "a.yml:1: {{.IP -}: the {{ has no }}"},
        {"{{- ", "a.yml:1: {{- : the {{ has no }}"},
        {"{{-", "a.yml:1: {{-: the {{ has no }}"},
        {"{{.", "a.yml:1: {{.: the {{ has no }}"},
        {"{{.IP\n'{{.Port}}'", "a.yml:1: {{.IP: the {{ has no }}"},
        /* Comments. */
        {"\n{{/* a", "a.yml:2: {{/* a: the comment has no */"},
        {"{{/*/}}", "a.yml:1: {{/*/}}: the comment has no */"},
        {"{{/*", "a.yml:1: {{/*: the comment has no */"},
        {"{{/* a }}\n", "a.yml:1: {{/* a }}: the comment has no */"},
        {"{{/* a */ }}", "a.yml:1: {{/* a */: " AT_ONCE},
        {"{{/* a */-}}", "a.yml:1: {{/* a */: " AT_ONCE},
        {"{{/* a */  -}}", "a.yml:1: {{/* a */: " AT_ONCE},
        {"{{/* a */", "a.yml:1: {{/* a */: " AT_ONCE},
        {"{{ /* a */}}", "a.yml:1: {{ /* a */}}: " ONLY},
        {"{{-  /* a */}}", "a.yml:1: {{-  /* a */}}: " ONLY},
        {"{{/* a */.IP}}", "a.yml:1: {{/* a */: " AT_ONCE},
        /* As much as there is room for. */
        {"{{ 2345678901234567890123456789012345678901234567890123456789012345 }}",
         "a.yml:1: {{ 234567890123456789012345678901234567890123456789012345678...: " ONLY},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct fixture fixture = render(cases[i].template, strlen(cases[i].template));

        if (fixture.config.faults.count == 0)
            fail_msg("\"%s\" is taken", cases[i].template);
        assert_string_equal(fixture.config.faults.text[0], cases[i].fault);
        end(&fixture);
    }
}

/* All of them in one go, each with its line. */
static void every_fault(void **state)
{
    static const char template[] = "{{.A}}\n{{.IP}}{{if}}\n\n{{.B\n{{/* c */ }}{{.Port}}\n{{.D";
    static const char *const expected[] = {
        "a.yml:1: {{.A}}: " UNKNOWN,       "a.yml:2: {{if}}: " ONLY,
        "a.yml:4: {{.B: the {{ has no }}", "a.yml:5: {{/* c */: " AT_ONCE,
        "a.yml:6: {{.D: the {{ has no }}",
    };
    struct fixture fixture = render(template, strlen(template));

    assert_int_equal(fixture.config.faults.count, ELEMENTSOF(expected));
    for (size_t i = 0; i < ELEMENTSOF(expected); i++)
        assert_string_equal(fixture.config.faults.text[i], expected[i]);
    end(&fixture);
}

static void nul(void **state)
{
    struct fixture fixture = render("a\nb\0{{.IP}}", 11);

    assert_int_equal(fixture.config.faults.count, 1);
    assert_string_equal(fixture.config.faults.text[0], "a.yml:2: a NUL byte is in the line");
    end(&fixture);
}

/* However many faults there are, they are not kept without end, nor looked for again and again. */
static void many(void **state)
{
    static const struct {
        const char *piece;
        const char *fault; /* the 99th */
    } cases[] = {
        {"{{}}\n", "a.yml:99: {{}}: " ONLY},     {"{{\n", "a.yml:99: {{: the {{ has no }}"},
        {"{{", "a.yml:1: {{: the {{ has no }}"}, {"{{.IP", "a.yml:1: {{.IP: the {{ has no }}"},
        {"{{/**/", "a.yml:1: {{/**/: " AT_ONCE},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        size_t length = strlen(cases[i].piece);
        size_t count = FILE_SIZE_MAX / length;
        char *template = malloc(count * length);
        struct fixture fixture;

        assert_non_null(template);
        for (size_t j = 0; j < count; j++)
            memcpy(template + length * j, cases[i].piece, length);
        fixture = render(template, count * length);
        assert_int_equal(fixture.config.faults.count, CONFIG_FAULTS_MAX);
        assert_string_equal(fixture.config.faults.text[98], cases[i].fault);
        end(&fixture);
        free(template);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(becomes), cmocka_unit_test(faults), cmocka_unit_test(every_fault),
        cmocka_unit_test(nul),     cmocka_unit_test(many),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
