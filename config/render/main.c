/*
 * stockd-render: reads each template, fills it, and only when nothing is wrong with any of them
 * writes what came out.
 */
#include "base/log.h"
#include "base/util.h"
#include "config/render/output.h"
#include "config/render/plan.h"
#include "config/render/template.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define OUTPUTS_MAX 2

struct program {
    struct plan plan;
    struct config config; /* of no settings: what is wrong with the files */
    struct file templates[OUTPUTS_MAX];
    struct output outputs[OUTPUTS_MAX];
    size_t count;
};

/* 0 or -ENOMEM. */
static int render(struct program *program, const struct plan_output *planned,
                  const struct template_value *values, size_t count)
{
    struct file *file = &program->templates[program->count];
    struct output *output = &program->outputs[program->count];
    int r;

    if (!planned->file)
        return 0;
    program->count++;
    r = file_read(file, planned->template_file, planned->template_origin, false, &program->config);
    if (r == 0 && file->bytes)
        r = template_render(&program->config, planned->template_file, file->bytes, file->size,
                            values, count, &output->text);
    if (r == 0)
        r = output_locate(output, planned->file, planned->origin, &program->config);
    return r;
}

/* What is written must be none of what is read, nor be written twice. */
static int check_outputs(struct program *program)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < program->count; i++) {
        const struct output *output = &program->outputs[i];

        for (size_t j = 0; r == 0 && j < program->count; j++)
            if (program->templates[j].bytes &&
                output_is_file(output, &program->templates[j].status))
                r = config_fault(&program->config, "%s: %s: it is a template", output->origin,
                                 output->name);
        for (size_t j = 0; r == 0 && j < i; j++)
            if (output_is_output(output, &program->outputs[j]))
                r = config_fault(&program->config, "%s: %s: it is the other output, too",
                                 output->origin, output->name);
    }
    return r;
}

static int run(struct program *program)
{
    const struct plan *plan = &program->plan;
    const struct template_value prometheus[] = {
        {"IP", plan->host}, {"Port", plan->prometheus.port}, {"ClientPort", plan->client_port}};
    const struct template_value data_source[] = {{"IP", plan->host},
                                                 {"Port", plan->data_source.port}};
    int r = render(program, &plan->prometheus, prometheus, ELEMENTSOF(prometheus));

    if (r == 0)
        r = render(program, &plan->data_source, data_source, ELEMENTSOF(data_source));
    if (r == 0)
        r = check_outputs(program);
    if (r == 0 && program->config.faults.count == 0)
        r = output_write_all(program->outputs, program->count, &program->config);
    return r;
}

int main(int argc, char *argv[])
{
    struct program program = {0};
    int status;

    log_open_standard_files();
    status = plan_make(&program.plan, argc, argv);
    if (status < 0) {
        int r = run(&program);

        for (size_t i = 0; i < program.config.faults.count; i++)
            (void)fprintf(stderr, "stockd-render: %s\n", program.config.faults.text[i]);
        if (r < 0)
            (void)fputs("stockd-render: out of memory\n", stderr);
        status = r < 0 || program.config.faults.count > 0 ? EXIT_FAILURE : EXIT_SUCCESS;
    }
    for (size_t i = 0; i < program.count; i++) {
        file_deinit(&program.templates[i]);
        output_deinit(&program.outputs[i]);
    }
    config_deinit(&program.config);
    plan_deinit(&program.plan);
    return status;
}
