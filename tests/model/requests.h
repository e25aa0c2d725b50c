/*
 * Requests that write to places, for the models of an image: where they wait
 * for a place, and what they leave to each other when they end.
 *
 * A model includes this behind its Request, Alloc and Model, and says which
 * requests may have no effect, by may_do_nothing().
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef MODEL_REQUESTS_H
#define MODEL_REQUESTS_H

/* The place that @block is being given, or NULL */
static Alloc *alloc_of_block(int block)
{
    for (int a = 0; a < ALLOCS; a++) {
        if (m.allocs[a].refs && !m.allocs[a].detached &&
            m.allocs[a].block == block) {
            return &m.allocs[a];
        }
    }
    return NULL;
}

/* Whether a request has waited for another one to zero its place */
static bool alloc_is_ready(int guest)
{
    Request *r = &m.requests[guest];

    return r->alloc && !r->zeroing && !r->writing &&
           m.allocs[r->alloc - 1].phase >= READY;
}

/*
 * What has been written beside a request that goes on, where @r ends: not what
 * had been when @r began, if it was in @seen and is not in what @r has @beside.
 */
static Values values_beside(const Request *r, Values seen, Values beside)
{
    return r->value | (may_do_nothing(r) ? seen : seen & beside);
}

/* @cell is written by @r, which ends; what is in @beside may have won. */
static void cell_end(Cell *cell, const Request *r, Values beside)
{
    cell_written(cell, r->value, beside | (may_do_nothing(r) ? cell->now : 0));
}

/* The data of @r is in the file, as far as it has any effect. */
static void data_written(Request *r)
{
    for (int i = 0; i < SECTORS; i++) {
        if (!(r->mask >> i & 1)) {
            continue;
        }
        cell_end(&m.places[r->place - 1].sector[i], r, r->beside[i]);
        for (int g = 0; g < guests; g++) {
            Request *other = &m.requests[g];

            if (other != r && other->writing && other->place == r->place &&
                other->mask >> i & 1) {
                other->beside[i] = values_beside(r, other->beside[i],
                                                 r->beside[i]);
            }
        }
    }
    r->writing = false;
    memset(r->beside, 0, sizeof(r->beside));
}

/* The guest of @r sees that it has ended. */
static void guest_written(Request *r)
{
    for (int i = 0; i < SECTORS; i++) {
        if (!(r->mask >> i & 1)) {
            continue;
        }
        cell_end(&m.guest[r->block][i], r, r->saw[i]);
        for (int g = 0; g < guests; g++) {
            Request *other = &m.requests[g];

            if (other != r && other->active && other->block == r->block &&
                other->mask >> i & 1) {
                other->saw[i] = values_beside(r, other->saw[i], r->saw[i]);
            }
        }
    }
}

#endif
