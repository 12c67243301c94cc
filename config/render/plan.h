/*
 * What is to be made, from what and with which values: everything that the command line, variables
 * and stockd's configuration say, put together.
 */
#pragma once

#include "config/render/outbound.h"

#include <sys/types.h>

/* Room for a port as text. */
#define PLAN_PORT_MAX 6

/* One output and its template. */
struct plan_output {
    char *template_file;
    char *template_origin; /* who said so; NULL: the installed one */
    char *file;            /* NULL: it is not asked for; "-": standard output */
    char *origin;
    char port[PLAN_PORT_MAX]; /* the value of {{.Port}} */
};

struct plan {
    char host[OUTBOUND_HOST_MAX]; /* {{.IP}} */
    char client_port[PLAN_PORT_MAX];
    struct plan_output prometheus;  /* {{.Port}} is stockd's */
    struct plan_output data_source; /* {{.Port}} is that of Prometheus */
};

/*
 * Makes it. What is wrong, and what somebody should know, is told on standard error. The exit
 * status with which the program has to end, or -1: the plan is to be carried out, and at least one
 * output is asked for. plan_deinit() frees it in either case.
 */
int plan_make(struct plan *ret_plan, int argc, char *argv[]);
void plan_deinit(struct plan *plan);

enum {
    PLAN_EXIT_USAGE = 2,
    PLAN_EXIT_CONFIGURATION = 78, /* EX_CONFIG of sysexits.h */
};
