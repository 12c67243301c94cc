/*
 * The terminal as a full screen: text at a place in one of a few styles, keys, and a terminal that
 * is as it was before, however the program ends.
 */
#pragma once

#include <stdbool.h>

/* How text looks. None says by colour alone what text does not say. */
enum screen_style {
    SCREEN_PLAIN,
    SCREEN_BOLD,
    SCREEN_GOOD,    /* green */
    SCREEN_BAD,     /* red */
    SCREEN_BAR,     /* reversed */
    SCREEN_CHOSEN,  /* within a bar: bold, and not reversed */
    SCREEN_WARNING, /* bold, yellow */
};

/* Keys that are no characters; the others have their character's number. */
enum screen_key {
    SCREEN_NO_KEY = -1,
    SCREEN_ESCAPE = 0x1b,
    SCREEN_BACKSPACE = 0x7f,
    SCREEN_UP = 0x1000,
    SCREEN_DOWN,
    SCREEN_LEFT,
    SCREEN_RIGHT,
    SCREEN_PAGE_UP,
    SCREEN_PAGE_DOWN,
    SCREEN_HOME,
    SCREEN_END,
    SCREEN_OTHER_KEY,
};

#define SCREEN_CTRL(letter) ((letter)&0x1f)

/*
 * Takes the terminal that standard input and output are. There can be one screen at a time. 0, or
 * -1: *ret_error says why not. The locale must be set.
 */
int screen_open(const char **ret_error);

/* Gives the terminal back. Does nothing when there is no screen. */
void screen_close(void);

/* Can it show all characters, or just those of ASCII? */
bool screen_is_utf8(void);

unsigned screen_width(void);
unsigned screen_height(void);

/* Reads the terminal's size, after it may have changed. Everything is to be drawn then. */
void screen_resize(void);

/* Begins a picture, with nothing in it. */
void screen_begin(void);

/* Writes text, cut at the right edge. Places outside the screen are none. */
void screen_put(unsigned y, unsigned x, enum screen_style style, const char *text);

/* Fills a row with a style. */
void screen_fill(unsigned y, enum screen_style style);

/* Shows a cursor there; without it there is none. Of each picture anew. */
void screen_cursor(unsigned y, unsigned x);

/*
 * Shows the picture: writes what is different from the one before. False if the terminal takes
 * nothing at the moment: then it was not shown, so that nothing waits for it.
 */
bool screen_show(void);

/* The next picture is written whole, whatever the terminal shows. */
void screen_forget(void);

/* The next key that has been pressed, or SCREEN_NO_KEY. */
int screen_key(void);

/* The terminal is somebody else's for a while, and comes back. */
void screen_suspend(void);
void screen_continue(void);
