/*
 * The chain of prices within one call: price[n] = price[n-1] + change[n]. Where it breaks an update
 * was lost, which neither the server nor the way from it is allowed to do.
 */
#pragma once

#include <stdbool.h>

/* Zeroed memory is the chain of a call from which nothing has come. */
struct chain {
    bool begun;
    double price;
};

/* Adds an update. False if it does not follow from the one before. */
bool chain_add(struct chain *chain, double price, double change);
