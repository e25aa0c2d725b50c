/*
 * VHDX: another place for the log
 *
 * Where the log is, and how long, is said by the headers alone.  It moves when
 * it is closed:
 *
 *   1. The log is opened, as for any change.  A place is taken for the next
 *      one, in free space or at the end of the file; a shorter one stays where
 *      it is.
 *   2. All that the log has is put in place, and stable, and with it the length
 *      of the file.
 *   3. The header that names no log any more gives the next one its place.
 *      That is one header, so until it is stable a replay finds the old log as
 *      it was, and from then on there is none.
 *   4. When both copies are like that the old place is free.
 *   5. The next change opens a log there, with a GUID of its own: nothing that
 *      the place has held counts as an entry of it.
 *
 * Nothing is copied.  Requests are frozen, as they look at the log's place
 * without a lock.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/vhdx/begin.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/log.h"
#include "block/vhdx/log-move.h"
#include "block/vhdx/request.h"
#include "block/vhdx/space.h"
#include "block/vhdx/space-freed.h"
#include "block/vhdx/space-scan.h"

/*
 * Let the log have @length bytes: where it is, of which it then has no more, or
 * in another place if it is to @move.
 */
static int coroutine_fn GRAPH_RDLOCK
log_replace(BlockDriverState *bs, uint32_t length, bool move)
{
    BDRVVHDXState *s = bs->opaque;
    int64_t offset = s->header.log_offset;
    bool zero;
    int ret;

    ret = vhdx_begin(bs, VHDX_METADATA) ?: vhdx_commit(bs);
    if (ret < 0) {
        return ret;
    }
    /* A scan between the steps would not find the place that is taken. */
    ret = vhdx_space_learn(bs);
    if (ret < 0 && ret != -EOVERFLOW) {
        return ret;
    }
    if (move) {
        VHDX_LOCK_GUARD(s);
        offset = vhdx_space_alloc(bs, length, &zero);
    }
    return offset < 0 ? offset : vhdx_log_move(bs, offset, length);
}

int coroutine_fn vhdx_log_resize(BlockDriverState *bs, uint32_t length,
                                 Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    int ret = 0;

    vhdx_request_freeze(s);
    if (length != s->header.log_length) {
        ret = log_replace(bs, length, length > s->header.log_length);
    }
    vhdx_request_thaw(s);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not move the log");
    }
    return ret;
}

/* The first free place before that of the log, taken for it, or 0. */
static uint64_t place_before(BDRVVHDXState *s)
{
    VHDX_LOCK_GUARD(s);
    return vhdx_space_take_below(s, s->header.log_length, s->header.log_offset);
}

int coroutine_fn vhdx_log_lower(BlockDriverState *bs, uint64_t limit,
                                uint64_t far)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t end = s->header.log_offset + s->header.log_length;
    uint64_t to;
    int ret;

    if (end <= limit) {
        return 0;
    }
    to = place_before(s);
    if (!to && end > far &&
        vhdx_space_is_free_before(s, s->header.log_offset)) {
        /* It would overlap itself there, so it goes up first. */
        ret = log_replace(bs, s->header.log_length, true);
        if (ret < 0) {
            return ret;
        }
        to = place_before(s);
    }
    if (!to) {
        return 0;
    }
    ret = vhdx_begin(bs, VHDX_METADATA);
    if (ret < 0) {
        VHDX_LOCK_GUARD(s);
        vhdx_space_return(s, to, s->header.log_length, false);
        return ret;
    }
    return vhdx_log_move(bs, to, s->header.log_length);
}
