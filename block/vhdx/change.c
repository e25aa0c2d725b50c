/*
 * VHDX: what may be changed, and which changes are stable
 *
 * Opening an image changes nothing in it.  What a change has to do first:
 *
 *               log opened              new DataWriteGuid
 *     READING ------------> METADATA ----------------------> DATA
 *        ^                    | ^                              | |
 *        |                    | +--- other children, or -------+ |
 *        |                    |      another parent              |
 *        +--------------------+----------------------------------+
 *                            log closed
 *
 *     any state -- metadata could not be made stable --> BROKEN
 *     BROKEN -- resumed: all is written again ---------> the state before, but
 *                                                        for DATA: METADATA
 *     BROKEN -- loaded anew: open, activation ---------> READING
 *
 *   READING    No page is dirty or logged.  Reads go by way of the replay's
 *              index, if there is one.
 *   METADATA   Both headers name our log, and FileWriteGuid is this open's; the
 *              index is out of force.  What no guest sees may change: compact,
 *              repair.
 *   DATA       DataWriteGuid is this open's, too: all may change.  A request
 *              looks at this one word.
 *   BROKEN     Writes fail, reads go on.  If the log was open it still is, and
 *              closing it fails; otherwise there is nothing to close.
 *
 * Whoever completes a change notes it, and so gives it a number.  A commit
 * takes all that are complete when it begins.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/qapi-events-block-core.h"
#include "qemu/error-report.h"
#include "block/vhdx/change.h"
#include "block/vhdx/lock.h"
#include "trace.h"

struct VHDXChange {
    VHDXWriteState state;           /* atomic; changed with commit_lock */
    VHDXWriteState before;          /* what it was, if it is BROKEN */

    /* Changed with lock */
    uint64_t last;                  /* counts completed changes */
    uint64_t stable;                /* those up to this one are */
    bool ordered;                   /* flush data before the next commit */
};

void vhdx_change_init(BDRVVHDXState *s)
{
    s->change = g_new0(VHDXChange, 1);
}

void vhdx_change_free(BDRVVHDXState *s)
{
    g_clear_pointer(&s->change, g_free);
}

static void change_reset(VHDXChange *c)
{
    qatomic_set(&c->state, VHDX_READING);
    c->before = VHDX_READING;
    c->stable = c->last;
    c->ordered = false;
}

void vhdx_change_reset(BDRVVHDXState *s)
{
    vhdx_assert_locked(s);
    change_reset(s->change);
}

void vhdx_change_move(BDRVVHDXState *to, BDRVVHDXState *from)
{
    VHDXChange *c = to->change;

    assert(vhdx_is_locked(to) || vhdx_is_locked(from));
    qatomic_set(&c->state, from->change->state);
    c->before = from->change->before;
    c->last = from->change->last;
    c->stable = from->change->stable;
    c->ordered = from->change->ordered;
    change_reset(from->change);
}

VHDXWriteState vhdx_change_state(BDRVVHDXState *s)
{
    return qatomic_read(&s->change->state);
}

bool vhdx_change_is_broken(BDRVVHDXState *s)
{
    return vhdx_change_state(s) == VHDX_BROKEN;
}

bool vhdx_change_log_is_open(BDRVVHDXState *s)
{
    VHDXWriteState state = vhdx_change_state(s);

    return (state == VHDX_BROKEN ? s->change->before : state) != VHDX_READING;
}

static const char *const state_names[] = {
    [VHDX_READING] = "reading",
    [VHDX_METADATA] = "metadata",
    [VHDX_DATA] = "data",
    [VHDX_BROKEN] = "broken",
};

/* The state becomes @to, for which it has to be @from. */
static void coroutine_fn state_set(BDRVVHDXState *s, VHDXWriteState from,
                                   VHDXWriteState to)
{
    vhdx_assert_commit_locked(s);
    assert(s->change->state == from && from != to);
    trace_vhdx_write_state(s, state_names[from], state_names[to]);
    qatomic_set(&s->change->state, to);
}

void coroutine_fn vhdx_change_opened(BDRVVHDXState *s)
{
    state_set(s, VHDX_READING, VHDX_METADATA);
}

void coroutine_fn vhdx_change_data(BDRVVHDXState *s)
{
    state_set(s, VHDX_METADATA, VHDX_DATA);
}

void vhdx_change_data_untold(BDRVVHDXState *s)
{
    if (qatomic_cmpxchg(&s->change->state, VHDX_DATA, VHDX_METADATA) ==
        VHDX_DATA) {
        trace_vhdx_write_state(s, state_names[VHDX_DATA],
                               state_names[VHDX_METADATA]);
    }
}

void coroutine_fn vhdx_change_closed(BDRVVHDXState *s)
{
    assert(vhdx_change_log_is_open(s));
    if (vhdx_change_is_broken(s)) {
        /* That came with the last write, which says that it is closed. */
        s->change->before = VHDX_READING;
    } else {
        state_set(s, s->change->state, VHDX_READING);
    }
}

void coroutine_fn vhdx_change_latch(BlockDriverState *bs, const char *why)
{
    BDRVVHDXState *s = bs->opaque;
    g_autofree char *message = NULL;

    if (vhdx_change_is_broken(s)) {
        return;
    }
    trace_vhdx_latch(s, why);
    s->change->before = s->change->state;
    state_set(s, s->change->before, VHDX_BROKEN);
    message = g_strdup_printf("VHDX image '%s': %s; all writes fail until the "
                              "image is reopened", bs->filename, why);
    error_report("%s", message);
    vhdx_change_corrupted_event(bs, message);
}

void coroutine_fn vhdx_change_unlatch(BDRVVHDXState *s)
{
    /* Children may have come meanwhile, which are to be told. */
    state_set(s, VHDX_BROKEN, MIN(s->change->before, VHDX_METADATA));
}

void vhdx_change_corrupted_event(BlockDriverState *bs, const char *message)
{
    const char *node = bdrv_get_node_name(bs);

    node = *node ? node : NULL;
    vhdx_send_corrupted(bdrv_get_device_name(bs), node, message);
}

/* [change-counted] */
void vhdx_change_note(BDRVVHDXState *s)
{
    vhdx_assert_locked(s);
    assert(vhdx_change_log_is_open(s));
    s->change->last++;
}

void vhdx_change_order(BDRVVHDXState *s)
{
    vhdx_assert_locked(s);
    s->change->ordered = true;
}

bool vhdx_change_is_ordered(BDRVVHDXState *s)
{
    return s->change->ordered;
}

uint64_t vhdx_change_last(BDRVVHDXState *s)
{
    vhdx_assert_locked(s);
    return s->change->last;
}

bool vhdx_change_is_stable(BDRVVHDXState *s, uint64_t change)
{
    vhdx_assert_locked(s);
    return s->change->stable >= change;
}

void vhdx_change_stable(BDRVVHDXState *s, uint64_t change)
{
    vhdx_assert_commit_locked(s);
    vhdx_assert_locked(s);
    assert(change >= s->change->stable && change <= s->change->last);
    s->change->stable = change;
}

/* [change-generation] */
bool vhdx_change_take(BDRVVHDXState *s, uint64_t *last)
{
    bool ordered = s->change->ordered;

    vhdx_assert_commit_locked(s);
    vhdx_assert_locked(s);
    *last = s->change->last;
    s->change->ordered = false;
    return ordered;
}
