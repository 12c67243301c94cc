/*
 * The wheel against a model so simple that it is plainly right: an array of times that is searched
 * from end to end. Random operations, also from inside `fire`, go to both.
 */
#include "base/wheel.h"

#include "base/util.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* After the four headers that it needs. */
#include <cmocka.h>

#define TIMERS 48
#define SEEDS 3000
#define STEPS 300

struct world;

struct subject {
    struct wheel_timer timer;
    struct world *world;
    uint64_t due_ms; /* 0: the model says not armed */
    bool overdue;
    uint64_t armed_in; /* the call of wheel_advance() that it was armed in, or before */
};

struct world {
    struct wheel wheel;
    uint64_t now_ms;
    uint64_t random;
    uint64_t call;        /* counts calls of wheel_advance() */
    uint64_t last_due_ms; /* of what fired before in this call */
    uint64_t fired;
    bool firing;
    struct subject subject[TIMERS];
};

static uint64_t draw(struct world *world)
{
    world->random ^= world->random << 13;
    world->random ^= world->random >> 7;
    world->random ^= world->random << 17;
    return world->random;
}

/* Any magnitude is as likely as any other. */
static uint64_t draw_span(struct world *world)
{
    return draw(world) >> (draw(world) % 64);
}

static uint64_t add_saturated(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static void model_arm(struct world *world, struct subject *subject)
{
    static const unsigned slacks[] = {0, 1, 2, 7, 10, 64, 100, 1000, 86400000, UINT32_MAX};
    unsigned slack_ms = slacks[draw(world) % ELEMENTSOF(slacks)];
    uint64_t due_ms, kind = draw(world) % 16;

    if (kind < 6)
        due_ms = add_saturated(world->now_ms, draw(world) % 200);
    else if (kind < 14)
        due_ms = add_saturated(world->now_ms, draw_span(world));
    else if (kind == 14)
        due_ms = draw_span(world); /* long past, mostly */
    else
        due_ms = UINT64_MAX - draw(world) % 3;

    wheel_arm(&world->wheel, &subject->timer, due_ms, slack_ms);

    if (slack_ms > 1) {
        uint64_t rounded = due_ms / slack_ms * slack_ms;
        if (rounded != due_ms)
            due_ms = add_saturated(rounded, slack_ms);
    }
    subject->overdue = due_ms <= world->now_ms;
    subject->due_ms = MAX(MAX(due_ms, world->now_ms), 1U);
    /* What comes from a `fire`, for the present or before, is for a later call. */
    subject->armed_in = world->call;
    assert_true(wheel_armed(&subject->timer));
}

static void model_cancel(struct world *world, struct subject *subject)
{
    wheel_cancel(&world->wheel, &subject->timer);
    subject->due_ms = 0;
    assert_false(wheel_armed(&subject->timer));
}

static void random_operation(struct world *world)
{
    struct subject *subject = &world->subject[draw(world) % TIMERS];

    if (draw(world) % 4 == 0)
        model_cancel(world, subject);
    else
        model_arm(world, subject);
}

static bool is_due(const struct subject *subject)
{
    return subject->overdue || subject->due_ms <= subject->world->now_ms;
}

static void fire(struct wheel_timer *timer)
{
    struct subject *subject = container_of(timer, struct subject, timer);
    struct world *world = subject->world;

    assert_true(world->firing);
    assert_int_not_equal(subject->due_ms, 0);           /* the model has it armed, */
    assert_true(is_due(subject));                       /* and it is due, */
    assert_true(subject->armed_in < world->call);       /* from before this call, */
    assert_true(subject->due_ms >= world->last_due_ms); /* in order, */
    assert_false(wheel_armed(timer));                   /* and disarmed by now */
    world->last_due_ms = subject->due_ms;
    subject->due_ms = 0;
    world->fired++;

    for (uint64_t n = draw(world) % 4; n > 0; n--) {
        if (draw(world) % 2)
            model_arm(world, subject);
        else
            random_operation(world);
    }
}

static void advance(struct world *world, uint64_t to_ms)
{
    if (to_ms < world->now_ms) { /* nothing may happen, not even to what is overdue */
        wheel_advance(&world->wheel, to_ms, UINT_MAX);
        return;
    }
    world->call++;
    world->now_ms = to_ms;
    world->last_due_ms = 0;
    /* All at once, or some at a time with other things between: the same fire in the same order. */
    for (;;) {
        world->firing = true;
        wheel_advance(&world->wheel, to_ms, draw(world) % 2 ? UINT_MAX : 1 + draw(world) % 5);
        world->firing = false;
        if (world->wheel.due_end == 0)
            break;
        assert_true(wheel_next(&world->wheel) <= to_ms);
        random_operation(world);
    }
    for (unsigned i = 0; i < TIMERS; i++) {
        const struct subject *subject = &world->subject[i];
        if (subject->due_ms != 0 && is_due(subject))
            assert_int_equal(subject->armed_in, world->call);
    }
}

static void check(struct world *world)
{
    uint64_t earliest_ms = WHEEL_NEVER;
    bool any = false, overdue = false;
    uint64_t next_ms = wheel_next(&world->wheel);

    assert_int_equal(world->wheel.now_ms, world->now_ms);
    for (unsigned i = 0; i < TIMERS; i++) {
        const struct subject *subject = &world->subject[i];

        assert_int_equal(subject->timer.due_ms, subject->due_ms);
        assert_int_equal(wheel_armed(&subject->timer), subject->due_ms != 0);
        if (subject->due_ms == 0)
            continue;
        any = true;
        overdue = overdue || is_due(subject);
        earliest_ms = MIN(earliest_ms, subject->due_ms);
    }
    if (!any)
        assert_int_equal(next_ms, WHEEL_NEVER);
    assert_true(next_ms <= earliest_ms);
    if (overdue)
        assert_int_equal(next_ms, world->now_ms);
    else if (any)
        assert_true(next_ms > world->now_ms); /* or the loop would spin */

    for (unsigned level = 0; level < WHEEL_LEVELS; level++) {
        for (unsigned slot = 0; slot < WHEEL_SLOTS; slot++) {
            bool bit = world->wheel.far_occupied[level] >> slot & 1;
            assert_int_equal(bit, !LIST_EMPTY(&world->wheel.far[level][slot]));
        }
    }
    for (unsigned word = 0; word < WHEEL_NEAR_MS / 64; word++) {
        uint64_t bits = world->wheel.near_occupied[word];
        assert_int_equal(world->wheel.near_words >> word & 1, bits != 0);
        for (; bits; bits &= bits - 1)
            assert_false(
                LIST_EMPTY(&world->wheel.near[word * 64 + (unsigned)__builtin_ctzll(bits)]));
    }
}

static void random_advance(struct world *world)
{
    uint64_t next_ms = wheel_next(&world->wheel), span_ms;

    switch (draw(world) % 8) {
    case 0:
    case 1:
        if (next_ms != WHEEL_NEVER)
            advance(world, next_ms);
        break;
    case 2:
        if (next_ms != WHEEL_NEVER && next_ms > world->now_ms)
            advance(world, next_ms - 1);
        break;
    case 3:
        advance(world, add_saturated(world->now_ms, draw_span(world) >> 8));
        break;
    case 4:
        span_ms = draw_span(world); /* back, or nowhere */
        advance(world, world->now_ms - MIN(span_ms, world->now_ms));
        break;
    case 5:
        advance(world, world->now_ms | 63); /* to the last tick before a cascade */
        break;
    default:
        advance(world, add_saturated(world->now_ms, draw(world) % 100));
    }
}

static void world_init(struct world *world, uint64_t seed)
{
    *world = (struct world){.random = seed * UINT64_C(0x9E3779B97F4A7C15) + 1};
    for (unsigned i = 0; i < 8; i++)
        (void)draw(world);

    switch (seed % 4) {
    case 0:
        world->now_ms = draw_span(world);
        break;
    case 1:
        world->now_ms = (UINT64_C(1) << draw(world) % 64) - draw(world) % 2;
        break;
    case 2:
        world->now_ms = 0;
        break;
    default:
        world->now_ms = UINT64_MAX - 1 - draw_span(world);
    }
    wheel_init(&world->wheel, world->now_ms);
    for (unsigned i = 0; i < TIMERS; i++) {
        world->subject[i].world = world;
        world->subject[i].timer.fire = fire;
    }
}

static void test_against_model(void **state)
{
    static struct world world;
    uint64_t fired = 0;

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        world_init(&world, seed);
        check(&world);
        for (unsigned step = 0; step < STEPS; step++) {
            if (draw(&world) % 3 == 0)
                random_advance(&world);
            else
                random_operation(&world);
            check(&world);
        }
        for (unsigned i = 0; i < TIMERS; i++)
            model_cancel(&world, &world.subject[i]);
        check(&world);
        fired += world.fired;
    }
    /* The test is worth something only if timers did fire, of every seed many. */
    assert_true(fired > UINT64_C(20) * SEEDS);
}

static unsigned count_fired;

static void count_fire(struct wheel_timer *timer)
{
    count_fired++;
}

/* However far away: exactly on time, after a handful of wakings. */
static void test_wakings(void **state)
{
    struct wheel wheel;
    struct wheel_timer timer = {.fire = count_fire};

    for (unsigned bits = 0; bits < 64; bits++) {
        uint64_t start_ms = UINT64_C(0x123456789ABCDEF) >> bits;
        uint64_t due_ms = start_ms + (UINT64_C(1) << bits);
        unsigned wakings = 0;

        wheel_init(&wheel, start_ms);
        wheel_arm(&wheel, &timer, due_ms, 0);
        count_fired = 0;
        while (count_fired == 0) {
            assert_true(wheel_next(&wheel) <= due_ms);
            wheel_advance(&wheel, wheel_next(&wheel), UINT_MAX);
            assert_true(++wakings <= WHEEL_LEVELS + 1);
        }
        assert_int_equal(count_fired, 1);
        assert_int_equal(wheel.now_ms, due_ms);
        assert_int_equal(wheel_next(&wheel), WHEEL_NEVER);
    }
}

static struct wheel again_wheel;

static void fire_again(struct wheel_timer *timer)
{
    count_fired++;
    wheel_arm(&again_wheel, timer, again_wheel.now_ms - 5, 0);
    wheel_arm(&again_wheel, timer, again_wheel.now_ms, 0);
}

/* A timer that always arms itself for now fires once a call, and the call ends. */
static void test_rearm_for_now(void **state)
{
    struct wheel_timer timer = {.fire = fire_again};

    wheel_init(&again_wheel, 1000);
    wheel_arm(&again_wheel, &timer, 1000, 0);
    count_fired = 0;
    for (unsigned i = 1; i <= 10; i++) {
        assert_int_equal(wheel_next(&again_wheel), again_wheel.now_ms);
        wheel_advance(&again_wheel, 1000 + i / 2, UINT_MAX);
        assert_int_equal(count_fired, i);
    }
    wheel_advance(&again_wheel, 900, UINT_MAX); /* back in time */
    assert_int_equal(count_fired, 10);
    wheel_cancel(&again_wheel, &timer);
    wheel_advance(&again_wheel, 2000, UINT_MAX);
    assert_int_equal(count_fired, 10);
}

/* Slack brings timers together, never forward. */
static void test_slack(void **state)
{
    struct wheel wheel;
    struct wheel_timer timers[100] = {0};

    wheel_init(&wheel, 7);
    for (unsigned i = 0; i < 100; i++) {
        timers[i].fire = count_fire;
        wheel_arm(&wheel, &timers[i], 201 + i, 100);
    }
    count_fired = 0;
    while (wheel_next(&wheel) < 300)
        wheel_advance(&wheel, wheel_next(&wheel), UINT_MAX);
    wheel_advance(&wheel, 299, UINT_MAX);
    assert_int_equal(count_fired, 0);
    wheel_advance(&wheel, 300, UINT_MAX);
    assert_int_equal(count_fired, 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_model),
        cmocka_unit_test(test_wakings),
        cmocka_unit_test(test_rearm_for_now),
        cmocka_unit_test(test_slack),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
