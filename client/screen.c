/*
 * On the wide-character ncurses, which compares pictures and writes what has changed. Of its ways
 * with signals none is used: the loop has them.
 *
 * A program that crashes must not leave a terminal behind that shows no typing. So the terminal's
 * modes are also kept here, and what takes it out of the full screen, for a signal handler that may
 * use nothing but write(2) and tcsetattr(3).
 */
#include "client/screen.h"

#include "base/util.h"

#include <langinfo.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>
/* Functions, not macros, so that the names are free. */
#define NCURSES_NOMACROS
#define NCURSES_WIDECHAR 1
#include <curses.h>
#include <term.h>

/* How long after Esc the rest of a key's sequence may come. */
#define ESCAPE_DELAY_MS 25

enum {
    PAIR_GOOD = 1,
    PAIR_BAD,
    PAIR_WARNING,
};

/* And ^\, which asks for one. */
static const int crashes[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGQUIT};

static struct {
    SCREEN *curses; /* NULL: there is no screen */
    WINDOW *keys;   /* where keys are read: a window that is seen would be shown each time */
    bool utf8;
    bool colours;
    unsigned cursor_y;
    unsigned cursor_x;
    bool cursor;

    struct termios modes; /* as they were */
    char leave[128];      /* takes the terminal out of the full screen */
    size_t leave_size;
    struct sigaction actions[ELEMENTSOF(crashes)]; /* as they were */
} screen;

/*
 * Gives the terminal back, and the signal to whoever had it. A fault comes again as soon as this
 * returns; a signal that was sent has to be sent again.
 */
static void on_crash(int number, siginfo_t *info, void *context)
{
    ssize_t size = write(STDOUT_FILENO, screen.leave, screen.leave_size);

    (void)size;
    (void)tcsetattr(STDIN_FILENO, TCSANOW, &screen.modes);
    for (size_t i = 0; i < ELEMENTSOF(crashes); i++)
        if (crashes[i] == number)
            (void)sigaction(number, &screen.actions[i], NULL);
    if (info->si_code <= 0 || number == SIGQUIT)
        (void)raise(number);
}

static void keep_terminal(void)
{
    static const char *const names[] = {"sgr0", "cnorm", "rmkx", "rmcup"};
    struct sigaction action = {.sa_sigaction = on_crash, .sa_flags = SA_SIGINFO};

    screen.leave_size = 0;
    for (size_t i = 0; i < ELEMENTSOF(names); i++) {
        char name[8];
        const char *text;
        size_t size;

        (void)strcpy(name, names[i]); /* which tigetstr() would not change */
        text = tigetstr(name);
        if (!text || text == (const char *)-1)
            continue;
        size = strlen(text);
        if (screen.leave_size + size < sizeof(screen.leave)) {
            memcpy(screen.leave + screen.leave_size, text, size);
            screen.leave_size += size;
        }
    }
    (void)sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < ELEMENTSOF(crashes); i++)
        (void)sigaction(crashes[i], &action, &screen.actions[i]);
}

static void start_colours(void)
{
    const char *refused = getenv("NO_COLOR");

    screen.colours = !(refused && *refused) && has_colors() && start_color() == OK;
    if (!screen.colours)
        return;
    (void)use_default_colors();
    (void)init_pair(PAIR_GOOD, COLOR_GREEN, -1);
    (void)init_pair(PAIR_BAD, COLOR_RED, -1);
    (void)init_pair(PAIR_WARNING, COLOR_YELLOW, -1);
}

/* Keys come one by one and unseen; those that make signals go on doing so. */
static void set_modes(void)
{
    struct termios modes;

    (void)cbreak();
    (void)noecho();
    (void)nonl();
    (void)intrflush(stdscr, FALSE);
    (void)keypad(screen.keys, TRUE);
    (void)nodelay(screen.keys, TRUE);
    (void)leaveok(stdscr, FALSE);
    /* Nor does ^S stop the terminal: a program that draws has no use for that. */
    if (tcgetattr(STDIN_FILENO, &modes) == 0) {
        modes.c_iflag &= ~(tcflag_t)(IXON | IXOFF);
        (void)tcsetattr(STDIN_FILENO, TCSANOW, &modes);
    }
    (void)def_prog_mode();
}

int screen_open(const char **ret_error)
{
    const char *name = getenv("TERM");
    int found;

    if (!isatty(STDOUT_FILENO)) {
        *ret_error = "standard output is no terminal; watch and stat need none";
        return -1;
    }
    if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &screen.modes) < 0) {
        *ret_error = "standard input is no terminal, so that no keys can be read; watch and stat "
                     "need none";
        return -1;
    }
    /* Asked first, since newterm() loses memory where it fails. */
    if (name && *name && setupterm(name, STDOUT_FILENO, &found) == OK) {
        (void)del_curterm(cur_term);
        screen.curses = newterm(name, stdout, stdin);
    }
    if (!screen.curses) {
        *ret_error = "TERM names no terminal that is known; watch and stat need none";
        return -1;
    }
    screen.keys = newpad(1, 1);
    if (!screen.keys || !tigetstr((char *)"cup") || tigetstr((char *)"cup") == (char *)-1) {
        screen_close();
        *ret_error = "the terminal that TERM names cannot place text; watch and stat need none";
        return -1;
    }
    screen.utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    (void)set_escdelay(ESCAPE_DELAY_MS);
    set_modes();
    start_colours();
    keep_terminal();
    (void)curs_set(0);
    return 0;
}

/* Where no other screen comes back the prompt of the shell stands in the last row, alone. */
static void leave(void)
{
    (void)curs_set(1);
    if (!exit_ca_mode && screen.leave_size > 0) {
        (void)move(getmaxy(stdscr) - 1, 0);
        (void)clrtoeol();
        (void)refresh();
    }
    (void)endwin();
}

void screen_close(void)
{
    if (!screen.curses)
        return;
    if (screen.keys)
        (void)delwin(screen.keys);
    leave();
    for (size_t i = 0; screen.leave_size > 0 && i < ELEMENTSOF(crashes); i++)
        (void)sigaction(crashes[i], &screen.actions[i], NULL);
    (void)tcsetattr(STDIN_FILENO, TCSADRAIN, &screen.modes);
    delscreen(screen.curses);
    memset(&screen, 0, sizeof(screen));
}

bool screen_is_utf8(void)
{
    return screen.utf8;
}

unsigned screen_width(void)
{
    return (unsigned)MAX(getmaxx(stdscr), 1);
}

unsigned screen_height(void)
{
    return (unsigned)MAX(getmaxy(stdscr), 1);
}

void screen_resize(void)
{
    struct winsize size;

    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0)
        (void)resizeterm(size.ws_row, size.ws_col);
    screen_forget();
}

void screen_begin(void)
{
    screen.cursor = false;
    (void)erase();
}

static attr_t style_attributes(enum screen_style style)
{
    switch (style) {
    case SCREEN_BOLD:
    case SCREEN_CHOSEN:
        return A_BOLD;
    case SCREEN_GOOD:
        return screen.colours ? (attr_t)COLOR_PAIR(PAIR_GOOD) : A_NORMAL;
    case SCREEN_BAD:
        return screen.colours ? (attr_t)COLOR_PAIR(PAIR_BAD) : A_NORMAL;
    case SCREEN_BAR:
        return A_REVERSE;
    case SCREEN_WARNING:
        return A_BOLD | (screen.colours ? (attr_t)COLOR_PAIR(PAIR_WARNING) : A_NORMAL);
    default:
        return A_NORMAL;
    }
}

/* The bytes of a text that stand in so many columns. ncurses would go on in the next row. */
static int bytes_within(const char *text, unsigned room)
{
    size_t length = strlen(text);
    mbstate_t state = {0};
    size_t done = 0;

    while (done < length) {
        wchar_t character = 0;
        size_t size = mbrtowc(&character, text + done, length - done, &state);
        int width = size > length ? 1 : wcwidth(character);

        if (size > length) { /* no character of the locale */
            state = (mbstate_t){0};
            size = 1;
        }
        if ((unsigned)MAX(width, 0) > room)
            break;
        room -= (unsigned)MAX(width, 0);
        done += size;
    }
    return (int)done;
}

void screen_put(unsigned y, unsigned x, enum screen_style style, const char *text)
{
    if (y >= screen_height() || x >= screen_width())
        return;
    (void)attrset((int)style_attributes(style));
    (void)mvaddnstr((int)y, (int)x, text, bytes_within(text, screen_width() - x));
    (void)attrset((int)A_NORMAL);
}

void screen_fill(unsigned y, enum screen_style style)
{
    if (y >= screen_height())
        return;
    (void)mvchgat((int)y, 0, -1, style_attributes(style), 0, NULL);
}

void screen_cursor(unsigned y, unsigned x)
{
    screen.cursor = true;
    screen.cursor_y = MIN(y, screen_height() - 1);
    screen.cursor_x = MIN(x, screen_width() - 1);
}

bool screen_show(void)
{
    struct pollfd terminal = {.fd = STDOUT_FILENO, .events = POLLOUT};

    if (poll(&terminal, 1, 0) == 0)
        return false;
    (void)curs_set(screen.cursor ? 1 : 0);
    if (screen.cursor)
        (void)move((int)screen.cursor_y, (int)screen.cursor_x);
    (void)refresh();
    return true;
}

void screen_forget(void)
{
    (void)clearok(curscr, TRUE);
}

int screen_key(void)
{
    int key = wgetch(screen.keys);

    switch (key) {
    case ERR:
        return SCREEN_NO_KEY;
    case KEY_UP:
        return SCREEN_UP;
    case KEY_DOWN:
        return SCREEN_DOWN;
    case KEY_LEFT:
        return SCREEN_LEFT;
    case KEY_RIGHT:
        return SCREEN_RIGHT;
    case KEY_PPAGE:
        return SCREEN_PAGE_UP;
    case KEY_NPAGE:
        return SCREEN_PAGE_DOWN;
    case KEY_HOME:
        return SCREEN_HOME;
    case KEY_END:
        return SCREEN_END;
    case KEY_ENTER:
        return '\n';
    case KEY_BACKSPACE:
    case '\b':
        return SCREEN_BACKSPACE;
    default:
        return key < 0x80 ? key : SCREEN_OTHER_KEY;
    }
}

void screen_suspend(void)
{
    leave();
    (void)tcsetattr(STDIN_FILENO, TCSADRAIN, &screen.modes);
}

void screen_continue(void)
{
    (void)reset_prog_mode();
    (void)curs_set(0);
    screen_resize();
}
