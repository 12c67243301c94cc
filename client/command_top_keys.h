/*
 * What keys do in `stock-client top`: scroll, sort, filter, pause, help, quit.
 */
#pragma once

#include "client/command_top_model.h"
#include "client/screen.h"

#include <stdbool.h>
#include <stddef.h>

enum top_mode {
    TOP_TABLE,
    TOP_FILTER, /* the filter is being typed */
    TOP_HELP,
};

struct top_keys {
    struct top_model *model;
    enum top_mode mode;
    size_t first;               /* the shown row that stands highest */
    size_t page;                /* how many rows the screen has; set by who draws */
    char before[TOP_NAME_SIZE]; /* the filter that Esc brings back */
};

enum top_action {
    TOP_DRAW,  /* something may look different now */
    TOP_PAUSE, /* the table is to be frozen, or to go on */
    TOP_CLEAR, /* the whole screen is to be drawn anew */
    TOP_QUIT,
    TOP_NOTHING,
};

enum top_action top_keys_press(struct top_keys *keys, int key);

/* Keeps `first` where there are rows. To be called when the model has been arranged. */
void top_keys_clamp(struct top_keys *keys);

/* What the help shows, line by line; ends with NULL. */
extern const char *const top_keys_help[];
