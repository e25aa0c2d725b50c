/*
 * VHDX crash test: who uses dirty bitmaps
 *
 * Commands are done as a monitor does them, in the main loop while requests are
 * under way.  Bitmaps are stored where the image is closed, and between two
 * halves of a session, where it gets read-only or inactive for a moment; that
 * may fail, and then the guests go on.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/dirty-bitmap.h"
#include "vhdx-crash-dirty.h"

/* So many names there are for bitmaps. */
#define NAMES   5

/* It is done now. */
static void note(const CrashInUse *u, CrashEventKind kind, guint track,
                 guint source, uint32_t start, int ret)
{
    tracks_note(u->tracks, (CrashEvent) {
        .kind = kind,
        .track = track,
        .source = source,
        .start = start,
        .end = ++*u->now,
        .ret = ret,
    });
}

static guint track_of(const CrashInUse *u, BdrvDirtyBitmap *bitmap)
{
    return tracks_find(u->tracks, bdrv_dirty_bitmap_name(bitmap));
}

/* -- Commands -- */

void dirty_add(const CrashInUse *u, const char *name, unsigned granularity,
               Error **errp)
{
    BdrvDirtyBitmap *bitmap;
    uint32_t start;

    if (!bdrv_can_store_new_dirty_bitmap(u->bs, name, 1U << granularity,
                                         errp)) {
        return;
    }
    bitmap = bdrv_create_dirty_bitmap(u->bs, 1U << granularity, name, errp);
    if (!bitmap) {
        return;
    }
    bdrv_dirty_bitmap_set_persistence(bitmap, true);
    start = ++*u->now;
    note(u, EVENT_ADD, tracks_add(u->tracks, name, granularity, u->disk_size,
                                  start), 0, start, 0);
}

void dirty_clear(const CrashInUse *u, BdrvDirtyBitmap *bitmap)
{
    uint32_t start = ++*u->now;

    bdrv_clear_dirty_bitmap(bitmap, NULL);
    note(u, EVENT_CLEAR, track_of(u, bitmap), 0, start, 0);
}

void dirty_toggle(const CrashInUse *u, BdrvDirtyBitmap *bitmap, Error **errp)
{
    uint32_t start = ++*u->now;
    bool enabled = bdrv_dirty_bitmap_enabled(bitmap);

    if (enabled) {
        bdrv_disable_dirty_bitmap(bitmap);
    } else if (bdrv_dirty_bitmap_changing(bitmap, errp) < 0) {
        note(u, EVENT_CHANGE, 0, 0, start, 0);
        return;
    } else {
        bdrv_enable_dirty_bitmap(bitmap);
    }
    note(u, enabled ? EVENT_DISABLE : EVENT_ENABLE, track_of(u, bitmap), 0,
         start, 0);
}

void dirty_merge(const CrashInUse *u, BdrvDirtyBitmap *to,
                 BdrvDirtyBitmap *from, Error **errp)
{
    uint32_t start = ++*u->now;

    if (bdrv_merge_dirty_bitmap(to, from, NULL, errp)) {
        note(u, EVENT_MERGE, track_of(u, to), track_of(u, from), start, 0);
    } else {
        note(u, EVENT_CHANGE, 0, 0, start, 0);
    }
}

void dirty_remove(const CrashInUse *u, BdrvDirtyBitmap *bitmap, Error **errp)
{
    g_autofree char *name = g_strdup(bdrv_dirty_bitmap_name(bitmap));
    guint track = track_of(u, bitmap);
    uint32_t start = ++*u->now;
    int ret = bdrv_remove_persistent_dirty_bitmap(u->bs, name, errp);

    if (ret == 0) {
        bdrv_release_dirty_bitmap(bitmap);
    }
    note(u, EVENT_REMOVE, track, 0, start, ret);
}

void dirty_job_begin(const CrashInUse *u, BdrvDirtyBitmap *bitmap)
{
    uint32_t start = ++*u->now;

    bdrv_dirty_bitmap_create_successor(bitmap, &error_abort);
    note(u, EVENT_JOB, track_of(u, bitmap), 0, start, 0);
}

void dirty_job_end(const CrashInUse *u, BdrvDirtyBitmap *bitmap, bool well)
{
    guint track = track_of(u, bitmap);
    uint32_t start = ++*u->now;

    if (well) {
        bdrv_dirty_bitmap_abdicate(bitmap, &error_abort);
    } else {
        bdrv_reclaim_dirty_bitmap(bitmap, &error_abort);
    }
    note(u, well ? EVENT_JOB_DONE : EVENT_JOB_FAILED, track, 0, start, 0);
}

/* -- What guests do -- */

static CrashInUse in_use(Guests *g)
{
    return (CrashInUse) {
        .bs = blk_bs(g->blk),
        .tracks = g->run->model->tracks,
        .now = &g->disk->now,
        .disk_size = g->disk_size,
    };
}

/* Tell of an error that need not be; it is freed. */
static void no_error(Guests *g, const char *what, Error *err)
{
    if (err && !g->disk->fault_hit) {
        run_wrong(g->run, "%s: %s", what, error_get_pretty(err));
    }
    error_free(err);
}

/*
 * One of the bitmaps that can be used, or also of others, or NULL.  Those that
 * a job uses can't be.
 */
static BdrvDirtyBitmap *choose(Guests *g, bool usable)
{
    BdrvDirtyBitmap *bitmap, *chosen = NULL;
    unsigned count = 0;

    FOR_EACH_DIRTY_BITMAP(blk_bs(g->blk), bitmap) {
        if ((!usable || !bdrv_dirty_bitmap_inconsistent(bitmap)) &&
            bdrv_dirty_bitmap_name(bitmap) &&
            !bdrv_dirty_bitmap_has_successor(bitmap) &&
            !rng_below(&g->rng, ++count)) {
            chosen = bitmap;
        }
    }
    return chosen;
}

static void add(Guests *g)
{
    static const unsigned granules[] = { 9, 12, 16, 16, 21 };
    unsigned granule = g->w->granule ?:
                       granules[rng_below(&g->rng, ARRAY_SIZE(granules))];
    g_autofree char *name = text("b%d", (int)rng_below(&g->rng, NAMES));
    CrashInUse u = in_use(g);
    Error *err = NULL;

    if (!bdrv_find_dirty_bitmap(u.bs, name) && !g->resizing) {
        dirty_add(&u, name, granule, &err);
        no_error(g, "a bitmap can't be added", err);
    }
}

static void merge(Guests *g, BdrvDirtyBitmap *to)
{
    CrashInUse u = in_use(g);
    BdrvDirtyBitmap *from = choose(g, true);
    Error *err = NULL;

    if (from != to) {
        dirty_merge(&u, to, from, &err);
        no_error(g, "bitmaps can't be merged", err);
    }
}

/* Let all jobs end. */
static void jobs_end(Guests *g)
{
    CrashInUse u = in_use(g);
    BdrvDirtyBitmap *bitmap = bdrv_dirty_bitmap_first(u.bs);

    while (bitmap) {
        if (bdrv_dirty_bitmap_has_successor(bitmap)) {
            dirty_job_end(&u, bitmap, rng_chance(&g->rng, 60));
            /* It may be gone: its successor is in its place. */
            bitmap = bdrv_dirty_bitmap_first(u.bs);
        } else {
            bitmap = bdrv_dirty_bitmap_next(bitmap);
        }
    }
}

void guests_command(Guests *g)
{
    const CrashCommands *mix = &g->w->commands;
    unsigned dice = rng_below(&g->rng, 100);
    CrashInUse u = in_use(g);
    BdrvDirtyBitmap *bitmap;
    Error *err = NULL;

    guests_may_fail(g, 8);
    if (dice < mix->add) {
        add(g);
        return;
    }
    dice -= mix->add;
    if (dice < mix->remove) {
        bitmap = choose(g, false);
        if (bitmap) {
            dirty_remove(&u, bitmap, &err);
            no_error(g, "a bitmap can't be removed", err);
        }
        return;
    }
    dice -= mix->remove;
    if (dice < mix->job && rng_chance(&g->rng, 50)) {
        jobs_end(g);
        return;
    }
    bitmap = choose(g, true);
    if (!bitmap) {
        return;
    }
    if (dice < mix->job) {
        dirty_job_begin(&u, bitmap);
        return;
    }
    dice -= mix->job;
    if (dice < mix->clear) {
        dirty_clear(&u, bitmap);
    } else if (dice - mix->clear < mix->merge) {
        merge(g, bitmap);
    } else {
        dirty_toggle(&u, bitmap, &err);
        no_error(g, "a bitmap can't be enabled", err);
    }
}

void guests_stopped(Guests *g, bool closing)
{
    while (g->w->bitmaps && rng_chance(&g->rng, 40)) {
        guests_command(g);
    }
    if (closing) {
        jobs_end(g);
    }
}

void guests_bitmaps(Guests *g)
{
    BdrvDirtyBitmap *bitmap;
    unsigned count = 0;

    FOR_EACH_DIRTY_BITMAP(blk_bs(g->blk), bitmap) {
        count++;
    }
    for (; count < g->w->bitmaps && count < NAMES; count++) {
        add(g);
    }
}

/* -- Storing -- */

void guests_may_fail(Guests *g, unsigned percent)
{
    CrashDisk *disk = g->disk;
    bool flush;

    if (!g->w->store_fails || disk->fault_hit || disk->fault.countdown ||
        !rng_chance(&g->rng, percent)) {
        return;
    }
    flush = rng_chance(&g->rng, 40);
    disk->fault = (CrashFault) {
        .kind = flush ? OP_FLUSH : OP_WRITE,
        .metadata = rng_chance(&g->rng, 75),
        .countdown = 1 + rng_below(&g->rng, flush ? 6 : 12),
        .lose = rng_chance(&g->rng, 50),
        .stick = rng_chance(&g->rng, 20),
    };
}

void guests_mend(Guests *g)
{
    CrashDisk *disk = g->disk;

    disk->fault.countdown = 0;
    disk->flush_broken = false;
    if (!disk->fault_hit) {
        return;
    }
    guests_exempt(g);
    /* One write that has failed is past. */
    if (disk->fault.kind == OP_WRITE || guests_resume(g)) {
        disk->fault_hit = false;
    }
}

/* The image gets read-only.  Returns 0 or -errno. */
static int store_read_only(Guests *g, Error **errp)
{
    BlockDriverState *bs = blk_bs(g->blk);
    uint64_t perm, shared;
    int ret;

    blk_get_perm(g->blk, &perm, &shared);
    blk_set_perm(g->blk, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL, &error_abort);
    ret = bdrv_reopen_set_read_only(bs, true, errp);
    if (ret < 0) {
        blk_set_perm(g->blk, perm, shared, &error_abort);
    }
    return ret;
}

static void store_writable(Guests *g)
{
    BlockDriverState *bs = blk_bs(g->blk);

    if (bdrv_is_read_only(bs)) {
        bdrv_reopen_set_read_only(bs, false, &error_abort);
        blk_set_perm(g->blk, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE |
                     BLK_PERM_RESIZE, BLK_PERM_ALL, &error_abort);
    }
}

void guests_store(Guests *g)
{
    bool read_only = rng_chance(&g->rng, 50);
    CrashModel *model = g->run->model;
    CrashInUse u = in_use(g);
    Error *err = NULL;
    uint32_t start;
    unsigned index;
    int ret;

    if (!read_only) {
        /* A bitmap that a job uses stays where it is. */
        jobs_end(g);
    }
    start = guests_stamp(g);
    index = model_begin(model, GUEST_FLUSH, 0, 0, start);
    guests_may_fail(g, 75);
    if (read_only) {
        ret = store_read_only(g, &err);
    } else {
        blk_set_force_allow_inactivate(g->blk);
        ret = bdrv_inactivate_all();
    }
    no_error(g, "the image can't get read-only", err);
    note(&u, EVENT_STORE, 0, 0, start, ret);
    model_end(model, index, guests_stamp(g), ret);
    if (!read_only) {
        bdrv_activate_all(&error_abort);
    }
    store_writable(g);
}
