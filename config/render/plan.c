/*
 * Where a value comes from: the command line, the environment, the .env file, stockd's
 * configuration, and only then from what is built in. All faults are told in one go.
 */
#include "config/render/plan.h"

#include "base/address.h"
#include "base/text.h"
#include "base/util.h"
#include "config/render/inputs.h"
#include "settings.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLIENT_PORT_DEFAULT 2113
#define PROMETHEUS_PORT_DEFAULT 9090

struct maker {
    struct plan *plan;
    struct arguments arguments;
    struct inputs inputs;
    struct settings settings;
    struct config config; /* of stockd; and the faults of everything */
    struct sockaddr_storage address;
    bool done; /* there is nothing else to do */
};

static void note(const char *format, ...) _printf_(1, 2);

static void note(const char *format, ...)
{
    va_list arguments;

    (void)fputs("stockd-render: ", stderr);
    va_start(arguments, format);
    (void)vfprintf(stderr, format, arguments);
    va_end(arguments);
    (void)fputc('\n', stderr);
}

static void set_port(char text[static PLAN_PORT_MAX], unsigned port)
{
    (void)snprintf(text, PLAN_PORT_MAX, "%u", port & UINT16_MAX);
}

/* The port that an input says; 0 if it says none, or something wrong, which has been told. */
static unsigned port_of(const struct maker *maker, enum input_name name)
{
    const char *value = maker->inputs.of[name].value;
    unsigned port = 0;

    return value && inputs_is_port(value, &port) ? port : 0;
}

/* ---- What metrics.listen says ---- */

static const char *listen_origin(const struct maker *maker)
{
    for (size_t i = 0; i < settings_table_count; i++)
        if (strcmp(settings_table[i].section, "metrics") == 0 &&
            strcmp(settings_table[i].key, "listen") == 0 && maker->config.origin[i])
            return maker->config.origin[i];
    return "built in";
}

/* The port of an endpoint of TCP, or 0 if the kernel chooses it; -1 for any other. */
static int endpoint_port(const struct endpoint *endpoint)
{
    const void *address = &endpoint->address;

    if (endpoint->address.ss_family == AF_INET)
        return ntohs(((const struct sockaddr_in *)address)->sin_port);
    if (endpoint->address.ss_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)address)->sin6_port);
    return -1;
}

/* Does it take connections to this address? One of IPv6 for every address does for IPv4 as well. */
static bool covers(const struct endpoint *endpoint, const struct sockaddr_storage *address)
{
    const void *one = &endpoint->address, *two = address;
    const struct in6_addr *six = &((const struct sockaddr_in6 *)one)->sin6_addr;
    in_addr_t four = ((const struct sockaddr_in *)one)->sin_addr.s_addr;

    if (endpoint->address.ss_family == AF_INET)
        return address->ss_family == AF_INET &&
               (four == htonl(INADDR_ANY) ||
                four == ((const struct sockaddr_in *)two)->sin_addr.s_addr);
    if (endpoint->address.ss_family != AF_INET6)
        return false;
    return IN6_IS_ADDR_UNSPECIFIED(six) ||
           (address->ss_family == AF_INET6 &&
            IN6_ARE_ADDR_EQUAL(six, &((const struct sockaddr_in6 *)two)->sin6_addr));
}

/* The first endpoint at the address, with this port if it is not 0. */
static const struct endpoint *find_endpoint(const struct maker *maker, unsigned port)
{
    const struct config_endpoints *listen = &maker->settings.metrics.listen;

    for (unsigned i = 0; i < listen->count; i++)
        if (covers(&listen->endpoints[i], &maker->address) &&
            (port == 0 || endpoint_port(&listen->endpoints[i]) == (int)port))
            return &listen->endpoints[i];
    return NULL;
}

/* The port that stockd's configuration says. 0 or -ENOMEM; it may be a fault. */
static int port_from_listen(struct maker *maker, unsigned *ret_port)
{
    const struct config_endpoints *listen = &maker->settings.metrics.listen;
    const struct endpoint *endpoint = find_endpoint(maker, 0);

    for (unsigned i = 0; !endpoint && i < listen->count; i++)
        if (endpoint_port(&listen->endpoints[i]) >= 0)
            endpoint = &listen->endpoints[i];
    if (!endpoint)
        return config_fault(&maker->config,
                            "%s: metrics.listen: there is no TCP address in it, and no other kind "
                            "is for Prometheus (--port gives a port)",
                            listen_origin(maker));
    if (endpoint_port(endpoint) == 0)
        return config_fault(&maker->config,
                            "%s: metrics.listen: the kernel chooses the port (--port gives it)",
                            listen_origin(maker));
    *ret_port = (unsigned)endpoint_port(endpoint);
    return 0;
}

/* What a scrape of this port would meet that the templates do not provide for. */
static void note_scrape(const struct maker *maker, unsigned port)
{
    const struct config_endpoints *listen = &maker->settings.metrics.listen;
    const struct endpoint *endpoint = find_endpoint(maker, port);
    const char *host = maker->plan->host;

    if (!endpoint) {
        struct text text = {0};

        for (unsigned i = 0; i < listen->count; i++) {
            char one[ADDRESS_TEXT_MAX];

            text_printf(&text, "%s%s", i > 0 ? ", " : "",
                        address_format((const void *)&listen->endpoints[i].address, one));
        }
        text_add_char(&text, '\0');
        note("stockd has no metrics at %s:%u: its metrics.listen is %s (%s)", host, port,
             text.failed     ? "something else"
             : text.size > 1 ? text.bytes
                             : "empty",
             listen_origin(maker));
        text_deinit(&text);
        return;
    }
    if (endpoint->tls)
        note("stockd has its metrics at %s:%u over TLS (%s): the scrape job needs "
             "\"scheme: https\", and a tls_config with the authority",
             host, port, listen_origin(maker));
    if (*maker->settings.metrics.user)
        note("stockd asks for a name and a password at %s:%u (metrics.user): the scrape job needs "
             "basic_auth",
             host, port);
}

/* The environment counts as it does to stockd; so does, for want of that, the .env file. */
static int load_settings(struct maker *maker)
{
    const struct input *port = &maker->inputs.of[INPUT_STOCKD_PORT];
    int r = settings_load(&maker->config, maker->arguments.config_file, NULL, false);

    /* It was from there, and so has been taken. */
    if (r < 0 || !port->value || getenv("STOCK_SERVICE_METRICS_SERVER_PORT"))
        return r;
    return config_set_port(&maker->config, "metrics", "listen", port->value, port->origin);
}

/* ---- The values ---- */

/* The address. 0 or a positive exit status. */
static int find_address(struct maker *maker)
{
    const struct sockaddr_in loopback = {.sin_family = AF_INET,
                                         .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const char *why = NULL;

    if (maker->arguments.ip) {
        if (outbound_parse(maker->arguments.ip, &maker->address, &why) < 0) {
            note("option --ip: %s", why);
            return PLAN_EXIT_USAGE;
        }
    } else {
        int r = outbound_find(&maker->address);

        if (r < 0) {
            memcpy(&maker->address, &loopback, sizeof loopback);
            note("this machine has no address that others could reach (%s): {{.IP}} is 127.0.0.1 "
                 "(--ip gives another)",
                 strerror(-r));
        }
    }
    (void)outbound_host(&maker->address, maker->plan->host);
    return 0;
}

/*
 * {{.Port}} for Prometheus. Stockd's configuration of this machine need not be read if address and
 * port are both given: then it may be about another machine. 0 or -ENOMEM.
 */
static int find_port(struct maker *maker)
{
    unsigned port = port_of(maker, INPUT_PORT);
    bool elsewhere = maker->arguments.ip && maker->inputs.of[INPUT_PORT].option;
    int r = 0;

    if (!elsewhere || maker->arguments.config_file) {
        size_t faults = maker->config.faults.count;

        r = load_settings(maker);
        if (r == 0 && maker->config.faults.count == faults && port == 0 &&
            !maker->inputs.of[INPUT_PORT].value)
            r = port_from_listen(maker, &port);
        if (r == 0 && maker->config.faults.count == 0)
            note_scrape(maker, port);
    }
    set_port(maker->plan->prometheus.port, port);
    return r;
}

/* {{.ClientPort}}. 0 or -ENOMEM. */
static int find_client_port(struct maker *maker)
{
    const struct input *own = &maker->inputs.of[INPUT_STOCK_CLIENT_PORT];
    unsigned port = CLIENT_PORT_DEFAULT;

    if (maker->inputs.of[INPUT_CLIENT_PORT].value)
        port = port_of(maker, INPUT_CLIENT_PORT);
    else if (own->value && !inputs_is_port(own->value, &port))
        return config_fault(&maker->config, "%s: \"%.60s\" is not a port (1 to 65535)", own->origin,
                            own->value);
    set_port(maker->plan->client_port, port);
    return 0;
}

/* ---- All together ---- */

/* Moves what the inputs say of an output and its template to the plan. 0 or -ENOMEM. */
static int take_files(struct maker *maker, struct plan_output *output, enum input_name template,
                      enum input_name file, const char *installed)
{
    struct input *from = &maker->inputs.of[template];
    struct input *to = &maker->inputs.of[file];

    output->file = TAKE_PTR(to->value);
    output->origin = TAKE_PTR(to->origin);
    output->template_origin = TAKE_PTR(from->origin);
    output->template_file = from->value ? TAKE_PTR(from->value) : strdup(installed);
    return output->template_file ? 0 : -ENOMEM;
}

/* A template that nothing is made from is most likely a misunderstanding. */
static bool check_pair(const struct input *template, const struct plan_output *output,
                       const char *wanted)
{
    if (!template->option || output->file)
        return true;
    note("%s: there is nothing to make from it without %s", output->template_origin, wanted);
    return false;
}

static bool check_usage(const struct maker *maker)
{
    const struct plan *plan = maker->plan;

    if (!check_pair(&maker->inputs.of[INPUT_PROMETHEUS_TEMPLATE], &plan->prometheus,
                    "--prometheus-output") ||
        !check_pair(&maker->inputs.of[INPUT_DATA_SOURCE_TEMPLATE], &plan->data_source,
                    "--data-source-output"))
        return false;
    if (plan->prometheus.file || plan->data_source.file)
        return true;
    note("nothing is asked for: say --prometheus-output or --data-source-output, or set "
         "PROM_OUTPUT_FILE or DS_OUTPUT_FILE, which may stand in a .env file");
    return false;
}

/* 0, a positive exit status, or -ENOMEM. */
static int make_values(struct maker *maker)
{
    struct plan *plan = maker->plan;
    unsigned port = port_of(maker, INPUT_PROMETHEUS_PORT);
    int r = find_address(maker);

    set_port(plan->data_source.port, port ? port : PROMETHEUS_PORT_DEFAULT);
    if (r == 0 && plan->prometheus.file)
        r = find_port(maker);
    if (r == 0 && plan->prometheus.file)
        r = find_client_port(maker);
    return r;
}

/* The same, faults besides. */
static int make(struct maker *maker, int argc, char *argv[])
{
    struct plan *plan = maker->plan;
    int r = inputs_read_arguments(&maker->inputs, &maker->arguments, argc, argv);

    maker->done = r == INPUTS_DONE;
    if (r > 0)
        return maker->done ? 0 : PLAN_EXIT_USAGE;
    if (r == 0)
        r = settings_init(&maker->config, &maker->settings);
    if (r == 0)
        r = inputs_read_variables(&maker->inputs, &maker->arguments, &maker->config);
    if (r == 0)
        r = take_files(maker, &plan->prometheus, INPUT_PROMETHEUS_TEMPLATE, INPUT_PROMETHEUS_OUTPUT,
                       TEMPLATES_FOLDER "/prometheus.yml");
    if (r == 0)
        r = take_files(maker, &plan->data_source, INPUT_DATA_SOURCE_TEMPLATE,
                       INPUT_DATA_SOURCE_OUTPUT, TEMPLATES_FOLDER "/datasources.yaml");
    /* What is wrong in the .env file may be what was to ask for something. */
    if (r == 0 && maker->config.faults.count == 0 && !check_usage(maker))
        return PLAN_EXIT_USAGE;
    return r == 0 ? make_values(maker) : r;
}

int plan_make(struct plan *ret_plan, int argc, char *argv[])
{
    struct maker maker = {.plan = ret_plan};
    int r;

    *ret_plan = (struct plan){0};
    r = make(&maker, argc, argv);
    for (size_t i = 0; i < maker.config.faults.count; i++)
        note("%s", maker.config.faults.text[i]);
    if (r < 0 || maker.config.faults.out_of_memory) {
        note("out of memory");
        r = EXIT_FAILURE;
    } else if (r == PLAN_EXIT_USAGE) {
        (void)fputs("Try 'stockd-render --help'.\n", stderr);
    } else if (maker.config.faults.count > 0) {
        r = PLAN_EXIT_CONFIGURATION;
    } else if (!maker.done) {
        r = -1;
    }
    config_deinit(&maker.config);
    inputs_deinit(&maker.inputs);
    return r;
}

static void output_deinit(struct plan_output *output)
{
    free(output->template_file);
    free(output->template_origin);
    free(output->file);
    free(output->origin);
}

void plan_deinit(struct plan *plan)
{
    output_deinit(&plan->prometheus);
    output_deinit(&plan->data_source);
    *plan = (struct plan){0};
}
