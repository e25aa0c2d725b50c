/*
 * VHDX: requests under way, and the places they allocate
 *
 * lock is held where nothing else is said.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_REQUEST_H
#define BLOCK_VHDX_REQUEST_H

#include "block/vhdx/state.h"

/* A request that uses file offsets it has got from the BAT. */
typedef struct VHDXRequest {
    uint64_t ticket;
    QTAILQ_ENTRY(VHDXRequest) next;
} VHDXRequest;

/*
 * What is known of a place that a block is being given:
 *
 *          zeroing begins         has ended
 *     NEW ---------------> PREPARING ----> READY ----> PUBLISHED
 *      ^                       |                 BAT entry set
 *      +-----------------------+
 *            has failed
 *
 * Space that is known to read as zeros begins as READY, and so does that of a
 * block that will be PARTIALLY_PRESENT: nobody reads there what is not written.
 */
typedef enum VHDXAllocPhase {
    VHDX_ALLOC_NEW,             /* it may read as anything */
    VHDX_ALLOC_PREPARING,       /* a request is zeroing it */
    VHDX_ALLOC_READY,           /* what is not written reads as zeros */
    VHDX_ALLOC_PUBLISHED,       /* the BAT names it */
} VHDXAllocPhase;

/*
 * A block that is being given its place, be it a payload block or a sector
 * bitmap block.  Whoever writes to it while this lasts shares it.  The first
 * write that completes publishes it, that is, sets the BAT entry.
 */
typedef struct VHDXAlloc {
    uint64_t index;                 /* of its BAT entry */
    uint64_t offset;                /* bytes from the start of the file */
    uint64_t bytes;                 /* that the place has */
    unsigned refs;
    VHDXAllocPhase phase;
    bool kept;                      /* the place is the one it had before */
    bool partial;                   /* what is not written is the parent's */
    bool barrier;                   /* data must be stable before the entry */
    bool touched;                   /* a write to it has been tried */
    bool detached;                  /* freed again: no longer in the table */
} VHDXAlloc;

/* No lock is held. */
void vhdx_request_init(BDRVVHDXState *s);
void vhdx_request_free(BDRVVHDXState *s);

/*
 * Begin @req, for @bytes bytes at @offset.  Returns -EIO if the disk has become
 * too short for it since the block layer looked; it has begun all the same.
 * lock is dropped while requests are frozen.
 */
int coroutine_fn vhdx_request_begin(BDRVVHDXState *s, VHDXRequest *req,
                                    uint64_t offset, uint64_t bytes);
void coroutine_fn vhdx_request_end(BDRVVHDXState *s, VHDXRequest *req);

/* Wait until a request ends or requests are thawed.  lock is dropped. */
void coroutine_fn vhdx_request_wait(BDRVVHDXState *s);

/*
 * Wait until all requests have ended and hold off new ones, which wait, until
 * vhdx_request_thaw().  Flushes go on.  No lock is held.
 */
void coroutine_fn vhdx_request_freeze(BDRVVHDXState *s);
void coroutine_fn vhdx_request_thaw(BDRVVHDXState *s);
bool vhdx_request_frozen(BDRVVHDXState *s);

/*
 * The same in two steps, for who needs requests held off only at its end: from
 * the first on nobody else holds them off, so that places and regions that no
 * request changes stay as they are.  A wait for another who does so comes
 * first. No lock is held.
 */
void coroutine_fn vhdx_request_reserve(BDRVVHDXState *s);
void coroutine_fn vhdx_request_hold(BDRVVHDXState *s);
void coroutine_fn vhdx_request_let_go(BDRVVHDXState *s);

/*
 * As vhdx_request_hold(), but first wait for the requests under way, with new
 * ones going on, and then hold those off no longer than for @ns nanoseconds
 * until the rest has ended.  With 0 there is no such limit.  Returns whether
 * requests are held.
 */
bool coroutine_fn vhdx_request_try_hold(BDRVVHDXState *s, int64_t ns);
void coroutine_fn vhdx_request_unreserve(BDRVVHDXState *s);

/* Whether somebody waits for the image to be reserved no more. */
bool vhdx_request_wanted(BDRVVHDXState *s);

/* The oldest request's ticket, or the next one's. */
uint64_t vhdx_request_oldest(BDRVVHDXState *s);

/* The ticket of the request that begins next. */
uint64_t vhdx_request_next(BDRVVHDXState *s);

/* The allocation of the block with BAT index @index, or NULL. */
VHDXAlloc *vhdx_request_alloc(BDRVVHDXState *s, uint64_t index);

/* Whether there are any. */
bool vhdx_request_allocates(BDRVVHDXState *s);

/* Enter @alloc, of a block that has none. */
void vhdx_request_alloc_add(BDRVVHDXState *s, VHDXAlloc *alloc);

/* Let the block of @alloc have none. */
void vhdx_request_alloc_detach(BDRVVHDXState *s, VHDXAlloc *alloc);

/* Wait until an allocation has been prepared, or not; wake those who wait. */
void coroutine_fn vhdx_request_alloc_wait(BDRVVHDXState *s);
void coroutine_fn vhdx_request_alloc_wake(BDRVVHDXState *s);

/* Append the place of each allocation, a uint64_t in bytes, to @offsets. */
void vhdx_request_alloc_offsets(BDRVVHDXState *s, GArray *offsets);

/*
 * Whether the data of an allocation has to be stable before the entry that
 * names it.
 */
bool vhdx_request_alloc_barrier(BDRVVHDXState *s);

#endif
