/*
 * Adding doubles rounds, and a server may round what it sends; a lost update shows as a difference
 * of about a whole change. So a difference far below any price's smallest step is no gap.
 */
#include "client/chain.h"

#include "base/util.h"

#include <math.h>

#define TOLERANCE 1e-6

bool chain_add(struct chain *chain, double price, double change)
{
    double expected = chain->price + change;
    /* Written so that a price that is no number breaks the chain. */
    bool follows = !chain->begun || fabs(price - expected) <= TOLERANCE * MAX(1.0, fabs(expected));

    chain->begun = true;
    chain->price = price;
    return follows;
}
