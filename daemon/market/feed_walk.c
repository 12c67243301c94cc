/*
 * The random walk of a whole market. A price is its ticker's start price times e to the power of a
 * normal walk, so that steps are a part of the price and it stays above 0; the walk is drawn back
 * to where it began, so gently that nobody sees it in a day, so that after years prices are still
 * prices. A ticker's walk depends on the seed and its name, not on who else is in the market.
 */
#include "market/feed_private.h"

#include <errno.h>
#include <math.h>
#include <string.h>

/* Where the walk of the logarithm ends up in the long run: its standard deviation, and how far from
 * the start it ever goes (a thousand times as much, or a thousandth). */
#define SPREAD 0.5
#define EXCURSION_MAX 6.9

/* The first update of a ticker does not wait longer, even if others come at a longer interval. */
#define FIRST_MS_MAX 5000

/* Timers may be this much late, and fire together then: of the interval, and at most. */
#define SLACK_PART 100
#define SLACK_MS_MAX 10

#define VOLUME_MAX 1000 /* of an update */
#define SHARES_MIN 10000000
#define SHARES_RANGE 1000000000

struct walker {
    struct wheel_timer timer;
    struct feed_walk *feed;
    struct random random;
    uint64_t due_ms; /* when it should fire; its timer may be later */
    uint64_t interval_ms;
    double start_price;
    double volatility;
    double excursion; /* logarithm of the price, from that of the start price */
    double price;     /* the last that was published; 0: none */
    double shares;
    unsigned ticker;
};

struct feed_walk {
    struct feed feed;
    size_t count;
    struct walker walkers[];
};

static double unit(struct random *random)
{
    return (double)(int64_t)(random_next(random) >> 11) * 0x1p-53;
}

/* Normal, with a standard deviation of 1, and never further away than 8.6 (Box and Muller 1958). */
static double normal(struct random *random)
{
    double radius = sqrt(-2 * log(1 - unit(random)));

    return radius * cos(2 * M_PI * unit(random));
}

/* As exchanges do: to the cent, and below one dollar to a hundredth of it; what is less than that
 * has its own idea of digits. */
static double round_price(double price)
{
    if (price >= 1)
        return price < 1e12 ? rint(price * 100) / 100 : price;
    return price >= 0.01 ? rint(price * 10000) / 10000 : price;
}

static double step(struct walker *walker)
{
    /* What draws back is as strong as makes the deviation in the long run SPREAD. */
    double pull = fmin(walker->volatility * walker->volatility / (2 * SPREAD * SPREAD), 0.5);
    double excursion =
        walker->excursion * (1 - pull) + walker->volatility * normal(&walker->random);

    walker->excursion = fmax(-EXCURSION_MAX, fmin(excursion, EXCURSION_MAX));
    return round_price(walker->start_price * exp(walker->excursion));
}

static void publish(struct walker *walker)
{
    double before = walker->price;
    double price = before > 0 ? step(walker) : walker->start_price;
    double top = fmax(before > 0 ? before : price, price);
    double bottom = fmin(before > 0 ? before : price, price);
    double margin = walker->volatility / 4, capital = price * walker->shares;
    struct market_quote quote = {
        .price = price,
        /* On its way the price was a little above and below both ends. */
        .high = fmax(top, round_price(top * (1 + margin * unit(&walker->random)))),
        .low = fmin(bottom, round_price(bottom / (1 + margin * unit(&walker->random)))),
        .volume = 1 + (int64_t)(unit(&walker->random) * VOLUME_MAX),
        .market_cap = capital < 0x1p63 ? (int64_t)capital : INT64_MAX,
    };

    walker->price = price;
    feed_publish(&walker->feed->feed, walker->ticker, &quote);
}

static void arm(struct walker *walker, uint64_t now_ms)
{
    uint64_t slack_ms = walker->interval_ms / SLACK_PART;

    loop_arm(walker->feed->feed.options.loop, &walker->timer,
             walker->due_ms > now_ms ? walker->due_ms - now_ms : 0,
             (unsigned)MIN(slack_ms, SLACK_MS_MAX));
}

static void on_timer(struct wheel_timer *timer)
{
    struct walker *walker = container_of(timer, struct walker, timer);
    uint64_t now_ms = loop_now_ms(walker->feed->feed.options.loop);

    /* From when it was due, so that lateness does not add up; but what was missed while the loop
     * could not run is not made up for. */
    walker->due_ms += walker->interval_ms;
    if (walker->due_ms <= now_ms)
        walker->due_ms +=
            ((now_ms - walker->due_ms) / walker->interval_ms + 1) * walker->interval_ms;
    arm(walker, now_ms);
    publish(walker);
}

static void walk_free(struct feed *feed)
{
    struct feed_walk *walk = container_of(feed, struct feed_walk, feed);

    for (size_t i = 0; i < walk->count; i++)
        loop_disarm(feed->options.loop, &walk->walkers[i].timer);
    feed_deinit(feed);
    free(walk);
}

static const struct feed_ops ops = {.free = walk_free};

/* FNV-1a. */
static uint64_t hash(const char *name)
{
    uint64_t hash = UINT64_C(0xCBF29CE484222325);

    for (const char *c = name; *c; c++)
        hash = (hash ^ (unsigned char)*c) * UINT64_C(0x100000001B3);
    return hash;
}

static void start(struct walker *walker, struct feed_walk *walk, const struct feed_ticker *ticker,
                  uint64_t seed)
{
    uint64_t now_ms = loop_now_ms(walk->feed.options.loop);
    /* Any number of multiples of this part of a turn are spread evenly over it. */
    double phase = fmod((double)(walk->count + 1) * 0.6180339887498949, 1);

    walker->timer.fire = on_timer;
    walker->feed = walk;
    walker->random = random_fork(seed, hash(ticker->name));
    walker->interval_ms = MAX(ticker->interval_ms, 1);
    walker->start_price = ticker->start_price;
    walker->volatility = ticker->volatility;
    walker->shares = SHARES_MIN + floor(unit(&walker->random) * SHARES_RANGE);
    walker->due_ms = now_ms + (uint64_t)(phase * (double)MIN(walker->interval_ms, FIRST_MS_MAX));
    arm(walker, now_ms);
}

int feed_walk_new(struct feed **ret_feed, const struct feed_options *options,
                  const struct feed_ticker *tickers, size_t count, uint64_t seed)
{
    uint64_t interval_ms = UINT64_MAX;
    struct feed_walk *walk;
    unsigned index;
    int r;

    walk = calloc(1, sizeof(*walk) + count * sizeof(walk->walkers[0]));
    if (!walk)
        return -ENOMEM;
    feed_init(&walk->feed, &ops, FEED_KIND_WALK, options);
    for (size_t i = 0; i < count; i++) {
        r = market_add_ticker(options->market, tickers[i].name, &index);
        if (r != 0) {
            walk_free(&walk->feed);
            /* Names and their number are checked by whoever has them from somebody. */
            return r < 0 ? r : -EINVAL;
        }
        walk->walkers[walk->count].ticker = index;
        start(&walk->walkers[walk->count], walk, &tickers[i], seed);
        walk->count++;
        interval_ms = MIN(interval_ms, MAX(tickers[i].interval_ms, 1));
    }
    if (count > 0)
        feed_expect(&walk->feed, interval_ms);
    *ret_feed = &walk->feed;
    return 0;
}
