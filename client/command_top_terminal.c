/*
 * Neither libuv nor ncurses gets the terminal for itself. uv_poll_init() would make the open file
 * non-blocking, and that file is also standard output and the shell's; so libuv watches an epoll
 * descriptor of ours that watches the keyboard. And what ncurses would do about signals, inside of
 * handlers, the loop does between two turns.
 */
#include "client/command_top_terminal.h"

#include "base/log.h"
#include "base/util.h"
#include "client/screen.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <unistd.h>

/* So many keys in one turn; what is pasted is not to keep everything else waiting. */
#define KEYS_MAX 64

enum {
    SIGNAL_RESIZE,
    SIGNAL_STOP,
    SIGNAL_CONTINUE,
};

static const int numbers[] = {
    [SIGNAL_RESIZE] = SIGWINCH,
    [SIGNAL_STOP] = SIGTSTP,
    [SIGNAL_CONTINUE] = SIGCONT,
};

static void on_signal(uv_signal_t *handle, int number);

void top_terminal_draw(struct top_terminal *terminal)
{
    if (terminal->open)
        loop_queue(terminal->loop, &terminal->now);
}

static void on_now(struct loop_task *task)
{
    struct top_terminal *terminal = container_of(task, struct top_terminal, now);

    terminal->draw(terminal->user);
}

static void on_due(struct wheel_timer *timer)
{
    struct top_terminal *terminal = container_of(timer, struct top_terminal, due);

    loop_arm(terminal->loop, &terminal->due, terminal->interval_ms, 1);
    top_terminal_draw(terminal);
}

static void on_keys(uv_poll_t *handle, int status, int events)
{
    struct top_terminal *terminal = handle->data;
    struct epoll_event event = {0};
    bool silent = true; /* a terminal that is gone may be readable, and have nothing */
    int key;

    if (epoll_wait(terminal->epoll, &event, 1, 0) < 1)
        return;
    for (int i = 0; i < KEYS_MAX && terminal->open; i++) {
        key = screen_key();
        if (key == SCREEN_NO_KEY)
            break;
        silent = false;
        terminal->key(terminal->user, key);
    }
    if (terminal->open && silent && (event.events & (EPOLLHUP | EPOLLERR))) {
        (void)uv_poll_stop(&terminal->keys);
        terminal->gone(terminal->user);
    }
}

static void watch_signal(struct top_terminal *terminal, size_t index)
{
    (void)uv_signal_start(&terminal->signals[index], on_signal, numbers[index]);
}

/* ^Z: stops as a program stops that has no handler, so that the shell sees what it knows. */
static void suspend(struct top_terminal *terminal)
{
    screen_suspend();
    (void)uv_signal_stop(&terminal->signals[SIGNAL_STOP]);
    (void)pthread_kill(pthread_self(), SIGTSTP);
    watch_signal(terminal, SIGNAL_STOP);
    screen_continue();
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct top_terminal *terminal = handle->data;

    if (!terminal->open)
        return;
    switch (number) {
    case SIGTSTP:
        suspend(terminal);
        break;
    case SIGCONT: /* after a SIGSTOP, of which nobody was told, the shell has used the terminal */
        screen_continue();
        break;
    default:
        screen_resize();
        break;
    }
    top_terminal_draw(terminal);
}

static int watch_keys(struct top_terminal *terminal)
{
    struct epoll_event event = {.events = EPOLLIN};
    int r;

    terminal->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (terminal->epoll < 0)
        return -errno;
    if (epoll_ctl(terminal->epoll, EPOLL_CTL_ADD, STDIN_FILENO, &event) < 0) {
        r = -errno;
        (void)close(terminal->epoll);
        return r;
    }
    r = uv_poll_init(terminal->loop->uv, &terminal->keys, terminal->epoll);
    if (r < 0) {
        (void)close(terminal->epoll);
        return r;
    }
    terminal->keys.data = terminal;
    terminal->watched = true;
    return uv_poll_start(&terminal->keys, UV_READABLE, on_keys);
}

static void on_keys_closed(uv_handle_t *handle)
{
    struct top_terminal *terminal = handle->data;

    (void)close(terminal->epoll);
}

void top_terminal_close(struct top_terminal *terminal)
{
    if (!terminal->open)
        return;
    terminal->open = false;
    screen_close();
    if (terminal->silent)
        log_set_level(terminal->log_level);
    loop_disarm(terminal->loop, &terminal->due);
    loop_cancel(terminal->loop, &terminal->now);
    for (size_t i = 0; i < ELEMENTSOF(numbers); i++)
        loop_close_signal(&terminal->signals[i]);
    if (terminal->watched)
        uv_close((uv_handle_t *)&terminal->keys, on_keys_closed);
}

int top_terminal_open(struct top_terminal *terminal, const char **ret_error)
{
    int r;

    /* Before ncurses, which leaves a signal alone that has a handler already. */
    for (size_t i = 0; i < ELEMENTSOF(numbers); i++) {
        r = uv_signal_init(terminal->loop->uv, &terminal->signals[i]);
        if (r < 0)
            return r;
        terminal->signals[i].data = terminal;
        watch_signal(terminal, i);
    }
    if (screen_open(ret_error) < 0) {
        for (size_t i = 0; i < ELEMENTSOF(numbers); i++)
            uv_close((uv_handle_t *)&terminal->signals[i], NULL);
        return 1;
    }
    terminal->open = true;
    terminal->now.run = on_now;
    terminal->due.fire = on_due;
    /* Messages on the terminal would be written into the picture. */
    terminal->silent = !log_to_journal() && isatty(STDERR_FILENO);
    terminal->log_level = log_enabled(LOG_DEBUG) ? LOG_DEBUG : LOG_INFO;
    if (terminal->silent)
        log_set_level(-1);
    r = watch_keys(terminal);
    if (r < 0) {
        top_terminal_close(terminal);
        return r;
    }
    loop_arm(terminal->loop, &terminal->due, terminal->interval_ms, 1);
    top_terminal_draw(terminal);
    return 0;
}
