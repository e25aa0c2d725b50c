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

static void note(Guests *g, CrashEventKind kind, guint track, guint source,
                 uint32_t start, int ret)
{
    tracks_note(g->run->model->tracks, (CrashEvent) {
        .kind = kind,
        .track = track,
        .source = source,
        .start = start,
        .end = guests_stamp(g),
        .ret = ret,
    });
}

/* Tell of an error that need not be; it is freed. */
static void no_error(Guests *g, const char *what, Error *err)
{
    if (err && !g->disk->fault_hit) {
        run_wrong(g->run, "%s: %s", what, error_get_pretty(err));
    }
    error_free(err);
}

/* One of the bitmaps that can be used, or also of others, or NULL */
static BdrvDirtyBitmap *choose(Guests *g, bool usable)
{
    BdrvDirtyBitmap *bitmap, *chosen = NULL;
    unsigned count = 0;

    FOR_EACH_DIRTY_BITMAP(blk_bs(g->blk), bitmap) {
        if ((!usable || !bdrv_dirty_bitmap_inconsistent(bitmap)) &&
            !rng_below(&g->rng, ++count)) {
            chosen = bitmap;
        }
    }
    return chosen;
}

static guint track_of(Guests *g, BdrvDirtyBitmap *bitmap)
{
    return tracks_find(g->run->model->tracks, bdrv_dirty_bitmap_name(bitmap));
}

/* -- Commands -- */

static void command_add(Guests *g)
{
    static const unsigned granules[] = { 9, 12, 16, 16, 21 };
    unsigned granule = g->w->granule ?:
                       granules[rng_below(&g->rng, ARRAY_SIZE(granules))];
    g_autofree char *name = text("b%d", (int)rng_below(&g->rng, NAMES));
    BlockDriverState *bs = blk_bs(g->blk);
    BdrvDirtyBitmap *bitmap;
    Error *err = NULL;
    uint32_t now;

    if (bdrv_find_dirty_bitmap(bs, name) || g->resizing) {
        return;
    }
    if (!bdrv_can_store_new_dirty_bitmap(bs, name, 1U << granule, &err)) {
        no_error(g, "a bitmap can't be added", err);
        return;
    }
    bitmap = bdrv_create_dirty_bitmap(bs, 1U << granule, name, &err);
    if (!bitmap) {
        no_error(g, "a bitmap can't be made", err);
        return;
    }
    bdrv_dirty_bitmap_set_persistence(bitmap, true);
    now = guests_stamp(g);
    note(g, EVENT_ADD, tracks_add(g->run->model->tracks, name, granule,
                                  g->disk_size, now), 0, now, 0);
}

static void command_clear(Guests *g, BdrvDirtyBitmap *bitmap)
{
    uint32_t start = guests_stamp(g);

    bdrv_clear_dirty_bitmap(bitmap, NULL);
    note(g, EVENT_CLEAR, track_of(g, bitmap), 0, start, 0);
}

static void command_enable(Guests *g, BdrvDirtyBitmap *bitmap)
{
    uint32_t start = guests_stamp(g);
    bool enabled = bdrv_dirty_bitmap_enabled(bitmap);
    Error *err = NULL;

    if (enabled) {
        bdrv_disable_dirty_bitmap(bitmap);
    } else if (bdrv_dirty_bitmap_changing(bitmap, &err) < 0) {
        no_error(g, "a bitmap can't be enabled", err);
        note(g, EVENT_CHANGE, 0, 0, start, 0);
        return;
    } else {
        bdrv_enable_dirty_bitmap(bitmap);
    }
    note(g, enabled ? EVENT_DISABLE : EVENT_ENABLE, track_of(g, bitmap), 0,
         start, 0);
}

static void command_merge(Guests *g, BdrvDirtyBitmap *to)
{
    uint32_t start = guests_stamp(g);
    BdrvDirtyBitmap *from = choose(g, true);
    Error *err = NULL;

    if (from == to) {
        return;
    }
    if (bdrv_merge_dirty_bitmap(to, from, NULL, &err)) {
        note(g, EVENT_MERGE, track_of(g, to), track_of(g, from), start, 0);
    } else {
        no_error(g, "bitmaps can't be merged", err);
        note(g, EVENT_CHANGE, 0, 0, start, 0);
    }
}

static void command_remove(Guests *g, BdrvDirtyBitmap *bitmap)
{
    g_autofree char *name = g_strdup(bdrv_dirty_bitmap_name(bitmap));
    guint track = track_of(g, bitmap);
    uint32_t start = guests_stamp(g);
    Error *err = NULL;
    int ret = bdrv_remove_persistent_dirty_bitmap(blk_bs(g->blk), name, &err);

    if (ret == 0) {
        bdrv_release_dirty_bitmap(bitmap);
    }
    no_error(g, "a bitmap can't be removed", err);
    note(g, EVENT_REMOVE, track, 0, start, ret);
}

void guests_command(Guests *g)
{
    const CrashCommands *mix = &g->w->commands;
    unsigned dice = rng_below(&g->rng, 100);
    BdrvDirtyBitmap *bitmap;

    guests_may_fail(g, 8);
    if (dice < mix->add) {
        command_add(g);
        return;
    }
    dice -= mix->add;
    if (dice < mix->remove) {
        bitmap = choose(g, false);
        if (bitmap) {
            command_remove(g, bitmap);
        }
        return;
    }
    dice -= mix->remove;
    bitmap = choose(g, true);
    if (!bitmap) {
        return;
    }
    if (dice < mix->clear) {
        command_clear(g, bitmap);
    } else if (dice - mix->clear < mix->merge) {
        command_merge(g, bitmap);
    } else {
        command_enable(g, bitmap);
    }
}

void guests_stopped(Guests *g)
{
    while (g->w->bitmaps && rng_chance(&g->rng, 40)) {
        guests_command(g);
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
        command_add(g);
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
    uint32_t start = guests_stamp(g);
    unsigned index = model_begin(model, GUEST_FLUSH, 0, 0, start);
    Error *err = NULL;
    int ret;

    guests_may_fail(g, 75);
    if (read_only) {
        ret = store_read_only(g, &err);
    } else {
        blk_set_force_allow_inactivate(g->blk);
        ret = bdrv_inactivate_all();
    }
    no_error(g, "the image can't get read-only", err);
    note(g, EVENT_STORE, 0, 0, start, ret);
    model_end(model, index, guests_stamp(g), ret);
    if (!read_only) {
        bdrv_activate_all(&error_abort);
    }
    store_writable(g);
}
