/*
 * VHDX: loading an image
 *
 * Opening an image never writes to it.  It reads headers, log, region table
 * and metadata items, in this order, since the log may hold newer versions of
 * what comes after it.
 *
 * An image may be loaded again while it is open: when it gets this process's,
 * or after a failure.  What is known of it is put aside meanwhile, and comes
 * back if that can't be done.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/error-report.h"
#include "block/vhdx/cache.h"
#include "block/vhdx/change.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/dirty-load.h"
#include "block/vhdx/early.h"
#include "block/vhdx/file.h"
#include "block/vhdx/header.h"
#include "block/vhdx/locator.h"
#include "block/vhdx/lock.h"
#include "block/vhdx/metadata.h"
#include "block/vhdx/open.h"
#include "block/vhdx/parent.h"
#include "block/vhdx/replay.h"
#include "block/vhdx/replay-load.h"
#include "block/vhdx/request.h"
#include "block/vhdx/ring.h"
#include "block/vhdx/space.h"
#include "trace.h"

/*
 * An image that another process writes to may change while it is being read:
 * so often is it tried, with so much time between.
 */
#define SHARED_TRIES        5
#define SHARED_WAIT_NS      (20 * SCALE_MS)

/* -- State -- */

/* What an image of which nothing is known has all the same */
static void image_init(BDRVVHDXState *s)
{
    vhdx_file_init(s, 0);
    vhdx_space_init(s, 0);
    vhdx_ring_init(s);
}

static void image_free(BDRVVHDXState *s)
{
    vhdx_file_free(s);
    vhdx_space_free(s);
    vhdx_ring_free(s);
}

/* Forget what is known of the image.  Pages stay. */
static void image_reset(BDRVVHDXState *s)
{
    vhdx_replay_free(s);
    vhdx_dirty_free(s);
    g_free(s->regions);
    g_free(s->creator);
    vhdx_locator_free(s->locator);
    g_free(s->locator_error);
    WITH_VHDX_LOCK_GUARD(s) {
        g_free(s->new_bitmaps);
        image_free(s);
        memset(s, 0, offsetof(BDRVVHDXState, end_image));
        image_init(s);
        vhdx_change_reset(s);
    }
}

void vhdx_open_free(BDRVVHDXState *s)
{
    image_reset(s);
    image_free(s);
    vhdx_request_free(s);
    vhdx_cache_free(s);
    vhdx_change_free(s);
    vhdx_lock_destroy(s);
    vhdx_parent_free(s);
}

void vhdx_open_init(BDRVVHDXState *s)
{
    *s = (BDRVVHDXState) {
        .cache_size = s->cache_size,
        .safe_discard = s->safe_discard,
        .early_ns = VHDX_EARLY_NS,
        .turns_needed = VHDX_EARLY_TURNS,
    };
    vhdx_lock_init(s);
    qemu_co_mutex_init(&s->commit_lock);
    qemu_co_mutex_init(&s->grow_lock);
    image_init(s);
    vhdx_change_init(s);
    vhdx_cache_init(s);
    vhdx_request_init(s);
}

/* -- Loading -- */

/*
 * Refuse a file of @length bytes that begins with the @bytes bytes at @buf, and
 * say what it is.
 */
static int coroutine_fn GRAPH_RDLOCK
file_refuse(BlockDriverState *bs, const uint8_t *buf, size_t bytes,
            int64_t length, Error **errp)
{
    const char *what = vhdx_other_format(buf, bytes);
    uint8_t footer[BDRV_SECTOR_SIZE];

    /* A VHD of fixed size is a raw disk with what tells so at its end. */
    if (!what && length >= sizeof(footer) &&
        vhdx_file_pread(bs, length - sizeof(footer), sizeof(footer),
                        footer) >= 0 && !memcmp(footer, "conectix", 8)) {
        what = vhdx_other_format(footer, sizeof(footer));
    }
    if (!length) {
        error_setg(errp, "Image is not in VHDX format: the file is empty");
    } else if (what) {
        error_setg(errp, "Image is not in VHDX format: it is %s", what);
    } else if (bs->inherits_from) {
        /* Who has made a child names its parent, and is told no bytes of it. */
        error_setg(errp, "Image '%s' is not in VHDX format", bs->filename);
    } else if (length < VHDX_HEADER_SECTION_SIZE) {
        error_setg(errp, "Image is not in VHDX format: the file of %" PRId64
                   " bytes is too short, and the signature is 0x%016" PRIx64,
                   length, ldq_be_p(buf));
    } else {
        error_setg(errp, "Image is not in VHDX format: the signature is "
                   "0x%016" PRIx64, ldq_be_p(buf));
    }
    return -EINVAL;
}

static int coroutine_fn GRAPH_RDLOCK
file_id_load(BlockDriverState *bs, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    uint8_t buf[8 + VHDX_CREATOR_CHARS * 2];
    int64_t length;
    int ret;

    ret = vhdx_file_pread(bs, 0, sizeof(buf), buf);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not read the file identifier");
        return ret;
    }
    length = vhdx_file_length(bs);
    if (length < 0) {
        error_setg_errno(errp, -length, "Could not get the file's length");
        return length;
    }
    if (!vhdx_file_id_valid(buf, sizeof(buf))) {
        return file_refuse(bs, buf, sizeof(buf), length, errp);
    }
    if (length < VHDX_HEADER_SECTION_SIZE) {
        error_setg(errp, "The file of %" PRId64 " bytes is shorter than the "
                   "header section of a VHDX image, which takes 1 MiB",
                   length);
        return -EINVAL;
    }
    s->creator = vhdx_creator_decode(buf);
    return 0;
}

/* One try of vhdx_open_load() */
static int coroutine_fn GRAPH_RDLOCK
load_once(BlockDriverState *bs, bool inactive, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    int64_t size;
    int ret;

    ret = file_id_load(bs, errp);
    if (ret < 0) {
        goto fail;
    }
    ret = vhdx_header_load(bs, errp);
    if (ret < 0) {
        goto fail;
    }
    if (!inactive && !vhdx_guid_is_nil(&s->header.log_guid)) {
        ret = vhdx_replay_load(bs, errp);
        if (ret < 0) {
            goto fail;
        }
    }
    size = vhdx_file_length(bs);
    if (size < 0) {
        error_setg_errno(errp, -size, "Could not get the file's length");
        ret = size;
        goto fail;
    }
    size = MAX(size, vhdx_replay_last_file_offset(s));
    /* Files and what is like them tell, devices and most servers do not. */
    s->file_shrinks = !qdict_haskey(bs->file->bs->options, "size") &&
                      bdrv_co_get_allocated_file_size(bs->file->bs) > 0;
    WITH_VHDX_LOCK_GUARD(s) {
        vhdx_file_set_size(s, size);
        vhdx_space_free(s);
        vhdx_space_init(s, size);
    }
    ret = vhdx_metadata_load(bs, errp);
    if (ret < 0) {
        goto fail;
    }
    if (!s->header.log_length) {
        ret = bdrv_apply_auto_read_only(bs, VHDX_NO_LOG, errp);
        if (ret < 0) {
            goto fail;
        }
    }
    bs->total_sectors = s->params.disk_size / BDRV_SECTOR_SIZE;
    trace_vhdx_open(s, bs->filename, s->params.disk_size, s->region_count,
                    vhdx_replay_active(s));
    return 0;

fail:
    image_reset(s);
    return ret;
}

/*
 * A file may be shorter than its newest log entry says if power was cut before
 * the new length was stable.  Or it is half a copy, which nothing else tells.
 */
static void coroutine_fn GRAPH_RDLOCK length_warn(BlockDriverState *bs)
{
    BDRVVHDXState *s = bs->opaque;
    uint64_t last = vhdx_replay_last_file_offset(s);
    int64_t size;

    /* It may have been cut since by whom it is shared with. */
    if (!last || bs->force_share) {
        return;
    }
    size = vhdx_file_length(bs);
    if (size >= 0 && QEMU_ALIGN_UP(size, VHDX_MIB) < last) {
        warn_report("VHDX image '%s': the file has %" PRId64 " bytes, but its "
                    "log has LastFileOffset %" PRIu64 ": what it lacks reads "
                    "as zeros, which is right after a power cut, but not in a "
                    "copy", bs->filename, size, last);
    }
}

int coroutine_fn vhdx_open_load(BlockDriverState *bs, bool inactive,
                                Error **errp)
{
    int tries = bs->force_share ? SHARED_TRIES : 1;
    int ret;

    while ((ret = load_once(bs, inactive, tries > 1 ? NULL : errp)) < 0 &&
           --tries) {
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, SHARED_WAIT_NS);
    }
    if (ret == 0) {
        length_warn(bs);
    }
    return ret;
}

/* -- Loading again -- */

/* Let @to have what @from knows of the image, and @from nothing. */
static void image_move(BDRVVHDXState *to, BDRVVHDXState *from)
{
    memcpy(to, from, offsetof(BDRVVHDXState, end_image));
    memset(from, 0, offsetof(BDRVVHDXState, end_image));
    image_init(from);
    vhdx_change_move(to, from);
}

int coroutine_fn vhdx_open_load_anew(BlockDriverState *bs, Error **errp)
{
    BDRVVHDXState *s = bs->opaque;
    g_autofree BDRVVHDXState *old = g_new0(BDRVVHDXState, 1);
    int ret;

    vhdx_open_init(old);
    vhdx_request_freeze(s);
    qemu_co_mutex_lock(&s->commit_lock);
    qemu_co_mutex_lock(&s->grow_lock);
    vhdx_commit_forget_early(s);
    WITH_VHDX_LOCK_GUARD(s) {
        image_free(old);
        image_move(old, s);
    }
    ret = vhdx_open_load(bs, bs->open_flags & BDRV_O_INACTIVE, errp);
    if (ret == 0 && !(bs->open_flags & BDRV_O_INACTIVE)) {
        vhdx_dirty_load(bs, true);
    }
    WITH_VHDX_LOCK_GUARD(s) {
        if (ret < 0) {
            image_free(s);
            image_move(s, old);
        } else {
            vhdx_cache_free(s);
            vhdx_cache_init(s);
            vhdx_file_inherit(s, old);
        }
    }
    qemu_co_mutex_unlock(&s->grow_lock);
    qemu_co_mutex_unlock(&s->commit_lock);
    vhdx_request_thaw(s);
    vhdx_open_free(old);
    return ret;
}
