/*
 * VHDX crash test: chains of images that are changed
 *
 * Two or three images, each the child of the one before, and a guest that uses
 * the last one.  Meanwhile they are merged as QEMU's commands and jobs do it,
 * or the last one gets another parent or none.  All writes and flushes of all
 * files are recorded with the stamps of one clock.  Whatever is done, the guest
 * sees one disk, which one model tells.
 *
 * Each image that is a parent has a second child as well, which nobody uses: a
 * sibling of the chain's.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "vhdx-crash.h"
#include "vhdx-test-child.h"

/* A merge copies so many bytes at once. */
#define COPY_BYTES      (512 * KiB)

/* The number of the first write that is not the guest's */
#define FOREIGN_WRITE   0x40000000

/* What is under way */
typedef struct Merge {
    CrashChain *chain;
    CrashDisk *disks[CRASH_LEVELS];
    Guests g;
} Merge;

static char *image_name(int level)
{
    return g_strdup_printf("image%d", level);
}

static char *file_name(int level)
{
    return g_strdup_printf("file%d", level);
}

/* -- The files that these images are said to be: empty ones -- */

static char *folder;

static char *path_of(int level)
{
    return g_strdup_printf("%s/image%d.vhdx", folder, level);
}

static void folder_remove(void)
{
    for (int i = 0; i <= CRASH_LEVELS; i++) {
        g_autofree char *path = path_of(i);

        unlink(path);
    }
    rmdir(folder);
}

/* The path of image @level */
static const char *folder_path(int level)
{
    static char *paths[CRASH_LEVELS + 1];

    if (!folder) {
        folder = g_dir_make_tmp("vhdx-crash-XXXXXX", NULL);
        g_assert(folder);
        atexit(folder_remove);
        for (int i = 0; i <= CRASH_LEVELS; i++) {
            paths[i] = path_of(i);
            g_assert(g_file_set_contents(paths[i], "", 0, NULL));
        }
    }
    return paths[level];
}

/* -- Nodes -- */

CrashDisk *chain_disk(CrashImage *view, const CrashNode *node, uint64_t seed,
                      int level, CrashDisk *lead)
{
    g_autofree char *name = file_name(level);

    return disk_new_beside(view, node, seed, name, folder_path(level), lead);
}

BlockBackend *chain_open(const int *levels, int count, int flags, Error **errp)
{
    BlockDriverState *below = NULL;
    BlockBackend *blk = NULL;

    for (int i = 0; i < count; i++) {
        QDict *options = qdict_new();
        g_autofree char *image = image_name(levels[i]);
        g_autofree char *file = file_name(levels[i]);
        BlockDriverState *bs = NULL;

        qdict_put_str(options, "driver", "vhdx");
        qdict_put_str(options, "node-name", image);
        qdict_put_str(options, "file", file);
        if (below) {
            qdict_put_str(options, "backing", bdrv_get_node_name(below));
        }
        if (i == count - 1) {
            blk = blk_new_open(NULL, NULL, options, flags, errp);
        } else {
            bs = bdrv_open(NULL, NULL, options, 0, errp);
        }
        bdrv_unref(below);
        below = bs;
        if (bs) {
            guest_set_early(bs, false);
        } else {
            break;
        }
    }
    if (blk) {
        guest_set_early(blk_bs(blk), false);
    }
    return blk;
}

BlockDriverState *chain_node(int level)
{
    g_autofree char *name = image_name(level);

    return bdrv_find_node(name);
}

/* -- Making the images -- */

/* The DataWriteGuid of @img as text */
static char *guid_text(const CrashImage *img)
{
    char *why;
    CrashReader *r = reader_new(img, NULL, &why);
    uint8_t *g = r->data_write;
    char *text = g_strdup_printf(
        "{%08x-%04x-%04x-%02x%02x-%02x%02x%02x%02x%02x%02x}",
        (unsigned)get_le(g, 4), (unsigned)get_le(g + 4, 2),
        (unsigned)get_le(g + 6, 2), g[8], g[9], g[10], g[11], g[12], g[13],
        g[14], g[15]);

    reader_free(r);
    return text;
}

CrashImage *chain_image_new(const CrashWorkload *w, CrashShape *shape,
                            const CrashImage *parent, int level, CrashRng *rng)
{
    CrashRun *made = guest_create(w, shape, rng);
    CrashImage *img = image_copy(made->last);
    char *why;

    if (parent) {
        CrashReader *r = reader_new(img, NULL, &why);
        g_autofree uint8_t *meta = g_malloc(CHILD_METADATA);
        g_autofree char *guid = guid_text(parent);
        g_autofree char *name = g_strdup_printf(".\\image%d.vhdx", level);

        image_read(img, r->meta_offset, CHILD_METADATA, meta);
        child_metadata_of(meta, guid, name);
        image_write(img, r->meta_offset, CHILD_METADATA, meta);
        reader_free(r);
    }
    guest_run_free(made);
    return img;
}

/*
 * Let guests write to the last of the images @levels, which has @shape; what
 * they do is stable at once.
 */
static void chain_fill(CrashChain *chain, CrashImage **images,
                       const int *levels, int count, CrashRun *run,
                       const CrashShape *shape, CrashRng *rng)
{
    const CrashWorkload *w = chain->workload;
    CrashDisk *disks[CRASH_LEVELS];
    Guests g = {
        .w = w,
        .shape = shape,
        .run = run,
        .rng = { rng_next(rng) },
        /* Nothing is behind the end of any disk: see chain_make(). */
        .disk_size = (w->disk_mib - 1) * MiB,
    };

    for (int i = 0; i < count; i++) {
        disks[i] = chain_disk(image_copy(images[levels[i]]), &w->node,
                              rng_next(rng), levels[i], NULL);
        disks[i]->instant = true;
    }
    g.disk = disks[count - 1];
    g.disk->now = chain->end;
    g.blk = chain_open(levels, count, BDRV_O_RDWR | BDRV_O_RESIZE |
                       BDRV_O_UNMAP, &error_abort);
    guests_enter_all(&g, w->actions);
    guests_wait(&g);
    blk_unref(g.blk);
    chain->end = g.disk->now;
    image_free(images[levels[count - 1]]);
    images[levels[count - 1]] = image_copy(g.disk->view);
    for (int i = 0; i < count; i++) {
        disk_free(disks[i]);
    }
}

/* A run that only tells what a guest has done */
static CrashRun *run_of_guest(CrashChain *chain)
{
    CrashRun *run = run_new(chain->workload, NULL);

    run->ops = g_ptr_array_new();
    run->model = model_new(NULL, NULL, &chain->shape);
    return run;
}

/*
 * Make image @level of two that have nothing to do with each other.  What is in
 * the first one is not the guest's, and must never be seen.  The last one has
 * a child.
 */
static void stranger_make(CrashChain *chain, const CrashWorkload *workload,
                          CrashImage **images, int level, CrashRun *run,
                          CrashRng *rng)
{
    CrashWorkload w = *workload;
    CrashRun *other = run_of_guest(chain);
    CrashShape shape;
    int child[] = { level, CRASH_LEVELS };
    CrashReader *r;
    char *why;

    other->model->first_id = FOREIGN_WRITE;
    if (!level) {
        w.disk_mib += rng_below(rng, 3) - 1;
    } else {
        w.state_zero = rng_chance(rng, 30);
    }
    images[level] = chain_image_new(&w, &shape, NULL, level - 1, rng);
    chain->payload[level] = shape.payload;
    chain->shape = shape;
    chain_fill(chain, images, child, 1, level ? run : other, &chain->shape,
               rng);
    if (level && rng_chance(rng, 60)) {
        r = reader_new(images[level], NULL, &why);
        g_assert(r);
        orphan_make(images[level], r, rng);
        reader_free(r);
    }
    if (level && !w.spread) {
        /* Its disk need not be of the same size. */
        images[CRASH_LEVELS] = chain_image_new(&w, &shape, images[level],
                                               level, rng);
        chain_fill(chain, images, child, 2, other, &shape, rng);
        chain->siblings[level] = images[CRASH_LEVELS];
    }
    guest_run_free(other);
}

/*
 * Make the images @images, which have a place for one more, and let each have
 * something of its own.  Returns what the guest has done.
 */
static CrashRun *chain_make(CrashChain *chain, CrashImage **images,
                            CrashRng *rng)
{
    static const int levels[] = { 0, 1, 2 };
    CrashRun *run = run_of_guest(chain);

    for (int i = 0; i < chain->count; i++) {
        CrashWorkload w = *chain->workload;
        CrashShape *shape = &chain->shape;
        int beside[] = { 0, 1, 2 };
        CrashRun *other;

        w.child = false;
        if (w.merge == MERGE_ADOPT) {
            stranger_make(chain, &w, images, i, run, rng);
            continue;
        }
        if (i < chain->count - 1) {
            /* A parent's disk is longer, shorter or about the same. */
            w.disk_mib += rng_below(rng, 3) - 1;
        }
        images[i] = chain_image_new(&w, shape, i ? images[i - 1] : NULL,
                                    i - 1, rng);
        chain->payload[i] = shape->payload;
        if (w.merge == MERGE_SNAPSHOT) {
            /* The first one is changed after the other one was made. */
            chain_fill(chain, images, levels, 1, run, shape, rng);
            continue;
        }
        if (w.spread && i < chain->count - 1) {
            /* Parents of a disk that is so long are empty. */
            continue;
        }
        chain_fill(chain, images, levels, i + 1, run, shape, rng);
        if (i == chain->count - 1) {
            break;
        }

        images[CRASH_LEVELS] = chain_image_new(&w, shape, images[i], i, rng);
        beside[i + 1] = CRASH_LEVELS;
        other = run_of_guest(chain);
        chain_fill(chain, images, beside, i + 2, other, shape, rng);
        guest_run_free(other);
        chain->siblings[i] = images[CRASH_LEVELS];
    }
    model_settle(run->model);
    model_advance(run->model, chain->end);
    return run;
}

/* -- What is done to a chain -- */

static void chain_wrong(Merge *m, int ret, Error *err, const char *what)
{
    run_wrong(m->g.run, "%s: %s", what,
              err ? error_get_pretty(err) : strerror(-ret));
    error_free(err);
}

/* A guest's flush, and nothing else */
static void merge_flush(Merge *m)
{
    unsigned index = model_begin(m->g.run->model, GUEST_FLUSH, 0, 0,
                                 ++m->g.disk->now);
    int ret = blk_flush(m->g.blk);

    model_end(m->g.run->model, index, ++m->g.disk->now, ret);
}

/* Guests do a part of the work alone. */
static void merge_use(Merge *m, unsigned part)
{
    guests_enter_all(&m->g, m->g.w->actions / part);
    guests_wait(&m->g);
}

BlockBackend *chain_blk(BlockDriverState *bs, uint64_t perm)
{
    BlockBackend *blk = blk_new(qemu_get_aio_context(), perm, BLK_PERM_ALL);

    blk_insert_bs(blk, bs, &error_abort);
    return blk;
}

int chain_copy(BlockDriverState *top, BlockDriverState *base,
               BlockBackend *from, BlockBackend *to, Error **errp)
{
    g_autofree uint8_t *buf = g_malloc(COPY_BYTES);
    int64_t length = blk_getlength(from), n = 0;
    int ret = 0;

    if (to && blk_getlength(to) < length) {
        ret = blk_truncate(to, length, false, PREALLOC_MODE_OFF, 0, errp);
    }
    for (int64_t at = 0; ret >= 0 && at < length; at += n) {
        GRAPH_RDLOCK_GUARD_MAINLOOP();
        ret = bdrv_is_allocated_above(top, base, false, at, length - at, &n);
        if (ret == 0 && n == 0) {
            /* What is below is shorter. */
            break;
        }
        if (ret <= 0) {
            continue;
        }
        n = MIN(n, COPY_BYTES);
        ret = blk_pread(from, at, n, buf, to ? 0 : BDRV_REQ_COPY_ON_READ);
        if (ret < 0 || !to) {
            continue;
        }
        ret = buffer_is_zero(buf, n) ?
              blk_pwrite_zeroes(to, at, n, BDRV_REQ_MAY_UNMAP) :
              blk_pwrite(to, at, n, buf, 0);
    }
    return MIN(ret, 0);
}

/* The same where it must succeed */
static void merge_copy(Merge *m, BlockDriverState *top, BlockDriverState *base,
                       BlockBackend *from, BlockBackend *to)
{
    Error *err = NULL;
    int ret = chain_copy(top, base, from, to, &err);

    if (ret < 0) {
        chain_wrong(m, ret, err, "a copy fails");
    }
}

static void merge_read_only(Merge *m, BlockDriverState *bs, bool read_only)
{
    Error *err = NULL;
    int ret = bdrv_reopen_set_read_only(bs, read_only, &err);

    if (ret < 0) {
        chain_wrong(m, ret, err, "a reopen fails");
    }
}

/* Let the image @base be writable, for what is merged into it. */
static BlockBackend *merge_target(Merge *m, BlockDriverState *base)
{
    merge_read_only(m, base, false);
    return chain_blk(base, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE |
                           BLK_PERM_RESIZE);
}

int chain_set_parent(BlockDriverState *bs, BlockDriverState *parent,
                     Error **errp)
{
    int ret;

    bdrv_graph_wrlock_drained();
    ret = bdrv_set_backing_hd(bs, parent, errp);
    bdrv_graph_wrunlock();
    return ret;
}

/* As a job does that takes images out of a chain */
static void merge_rechain(Merge *m, BlockDriverState *top,
                          BlockDriverState *parent)
{
    Error *err = NULL;
    int ret = chain_set_parent(top, parent, &err);

    if (ret == 0) {
        ret = bdrv_change_backing_file(top, parent ? "image0.vhdx" : NULL,
                                       parent ? "vhdx" : NULL, false);
    }
    if (ret < 0) {
        chain_wrong(m, ret, err, "the parent can't be changed");
    }
}

/* The last image gets a parent that it has not had, or loses it. */
static void merge_turn(Merge *m, const char *parent)
{
    BlockDriverState *top = blk_bs(m->g.blk);
    CrashTurn turn = { .start = ++m->g.disk->now, .has_parent = parent };
    Error *err = NULL;
    int ret = parent ? 0 : chain_set_parent(top, NULL, &err);

    if (ret == 0) {
        ret = bdrv_change_backing_file(top, parent, parent ? "vhdx" : NULL,
                                       false);
    }
    if (ret < 0) {
        chain_wrong(m, ret, err, parent ? "the image can't get a parent" :
                                          "the image can't lose its parent");
    }
    turn.end = ++m->g.disk->now;
    g_array_append_val(m->chain->turns, turn);
}

/* Open the images @levels, of which the guest is to use the last one. */
static void merge_open(Merge *m, const int *levels, int count, Error **errp)
{
    m->g.blk = chain_open(levels, count, BDRV_O_RDWR | BDRV_O_RESIZE |
                          BDRV_O_UNMAP, errp);
    for (int i = 0; m->g.blk && i < count; i++) {
        guest_set_early(chain_node(levels[i]), m->g.w->early);
    }
}

/* Close the last image, and open it and what is below. */
static void merge_reopen(Merge *m, const int *levels, int count)
{
    unsigned index = model_begin(m->g.run->model, GUEST_FLUSH, 0, 0,
                                 ++m->g.disk->now);
    Error *err = NULL;

    blk_unref(m->g.blk);
    model_end(m->g.run->model, index, ++m->g.disk->now,
              m->g.run->wrong->len ? -EIO : 0);
    merge_open(m, levels, count, &err);
    if (!m->g.blk) {
        chain_wrong(m, 0, err, "does not open again");
    }
}

/* From here on points are of interest that are few. */
static void merge_start(Merge *m)
{
    if (!m->chain->change_start) {
        m->chain->change_start = ++m->g.disk->now;
    }
}

static void merge_end(Merge *m)
{
    m->chain->change_end = ++m->g.disk->now;
}

/*
 * The monitor's command, and that without the flush of the parent that it has:
 * that is the driver's business, too.  The guest is stopped.
 */
static void merge_commit(Merge *m)
{
    unsigned count = 1 + rng_below(&m->g.rng, 2);

    for (unsigned i = 0; i < count; i++) {
        BlockDriverState *top = blk_bs(m->g.blk);
        BlockDriverState *base = chain_node(m->chain->count - 2);
        Error *err = NULL;
        BlockBackend *to;
        int ret;

        merge_use(m, 2);
        merge_start(m);
        if (rng_chance(&m->g.rng, 30)) {
            ret = bdrv_commit(top);
        } else {
            to = merge_target(m, base);
            merge_copy(m, top, base, m->g.blk, to);
            if (rng_chance(&m->g.rng, 60)) {
                /* This is what is cut, mostly. */
                m->chain->change_start = ++m->g.disk->now;
            }
            ret = blk_make_empty(m->g.blk, &err);
            blk_unref(to);
            merge_read_only(m, base, true);
        }
        if (ret < 0) {
            chain_wrong(m, ret, err, "a commit fails");
        }
        merge_end(m);
    }
    merge_use(m, 3);
}

/*
 * Let the parent's file have no space for more, so that it can't get longer and
 * maybe holes can't be filled, or fail once, in a write or a flush.
 */
static void trouble_begin(Merge *m, CrashDisk *disk)
{
    CrashRng *rng = &m->g.rng;

    if (m->g.w->base_full) {
        disk->limit = disk->view->size + rng_below(rng, 4) * MiB;
        disk->solid = rng_chance(rng, 25);
        return;
    }
    disk->fault = (CrashFault) {
        .kind = rng_chance(rng, 50) ? OP_WRITE : OP_FLUSH,
        .metadata = rng_chance(rng, 50),
        .countdown = 1 + rng_below(rng, 12),
        .lose = rng_chance(rng, 60),
    };
}

static void trouble_end(CrashDisk *disk)
{
    disk->limit = 0;
    disk->solid = false;
    disk->fault.countdown = 0;
}

/*
 * Merge the last image into its parent, and empty it: as the monitor's command
 * or as a job does.  Returns 0 or -errno.
 */
static int trouble_merge(Merge *m, Error **errp)
{
    BlockDriverState *top = blk_bs(m->g.blk);
    BlockDriverState *base = chain_node(m->chain->count - 2);
    CrashDisk *disk = m->disks[m->chain->count - 2];
    BlockBackend *to;
    int ret;

    if (rng_chance(&m->g.rng, 40)) {
        return bdrv_commit(top);
    }
    ret = bdrv_reopen_set_read_only(base, false, errp);
    if (ret < 0) {
        return ret;
    }
    to = chain_blk(base, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE |
                         BLK_PERM_RESIZE);
    ret = chain_copy(top, base, m->g.blk, to, errp);
    if (ret == 0 && disk->fault.countdown && rng_chance(&m->g.rng, 50)) {
        /* What fails is the flush before the child gets empty. */
        disk->fault.kind = OP_FLUSH;
        disk->fault.countdown = 1;
    }
    if (ret == 0) {
        ret = blk_make_empty(m->g.blk, errp);
    }
    blk_unref(to);
    /* If that fails it stays writable. */
    bdrv_reopen_set_read_only(base, true, NULL);
    return ret;
}

/*
 * A merge ends early, as the parent's file runs full, or fails.  The guest goes
 * on; when there is space again, and the file works, another merge succeeds.
 */
static void merge_trouble(Merge *m)
{
    static const int levels[] = { 0, 1, 2 };
    CrashDisk *disk = m->disks[m->chain->count - 2];
    int expected = m->g.w->base_full ? -ENOSPC : -EIO;
    BlockDriverState *base;
    Error *err = NULL;
    int ret;

    merge_use(m, 2);
    merge_start(m);
    trouble_begin(m, disk);
    ret = trouble_merge(m, &err);
    if (ret < 0 && (ret != expected ||
                    !(m->g.w->base_full || disk->fault_hit))) {
        chain_wrong(m, ret, err, "a merge fails for another reason");
        return;
    }
    error_free(err);
    err = NULL;
    merge_use(m, 2);
    trouble_end(disk);
    if (rng_chance(&m->g.rng, 30)) {
        merge_reopen(m, levels, m->chain->count);
        if (m->g.run->wrong->len) {
            return;
        }
    }
    base = chain_node(m->chain->count - 2);
    if (!bdrv_is_read_only(base) &&
        bdrv_reopen_set_read_only(base, true, &err) < 0) {
        /*
         * It could not be made so before.  It can be now, but where a flush
         * has failed: what has been merged may be lost, until all is opened
         * anew.
         */
        if (disk->fault.kind != OP_FLUSH) {
            chain_wrong(m, -EIO, err, "a reopen fails");
            return;
        }
        error_free(err);
        err = NULL;
        merge_reopen(m, levels, m->chain->count);
        if (m->g.run->wrong->len) {
            return;
        }
    }
    ret = trouble_merge(m, &err);
    if (ret < 0) {
        chain_wrong(m, ret, err, "nothing hinders it, but a merge fails");
    }
    merge_end(m);
    merge_use(m, 2);
}

/*
 * The last image is merged into the first while it is used, and then that one
 * is used.  What was above it stays attached for some time.
 */
static void merge_pivot(Merge *m)
{
    BlockDriverState *top = blk_bs(m->g.blk), *base = chain_node(0);
    BlockBackend *to;

    merge_use(m, 3);
    merge_start(m);
    to = merge_target(m, base);
    guests_enter_all(&m->g, m->g.w->actions / 2);
    merge_copy(m, top, base, m->g.blk, to);
    guests_wait(&m->g);
    /* What has changed meanwhile */
    merge_copy(m, top, base, m->g.blk, to);
    blk_flush(to);
    bdrv_ref(top);
    bdrv_ref(base);
    blk_remove_bs(m->g.blk);
    blk_insert_bs(m->g.blk, base, &error_abort);
    bdrv_unref(base);
    blk_unref(to);
    m->chain->pivot = ++m->g.disk->now;
    m->chain->stale = model_copy(m->g.run->model);
    merge_use(m, 2);
    merge_end(m);
    bdrv_unref(top);
    merge_use(m, 2);
}

/* The image in the middle is merged into the first. */
static void merge_middle(Merge *m)
{
    BlockDriverState *top = blk_bs(m->g.blk), *base = chain_node(0);
    BlockDriverState *middle = chain_node(1);
    BlockBackend *from = chain_blk(middle, BLK_PERM_CONSISTENT_READ), *to;

    merge_use(m, 3);
    merge_start(m);
    to = merge_target(m, base);
    guests_enter_all(&m->g, m->g.w->actions / 2);
    merge_copy(m, middle, base, from, to);
    blk_unref(from);
    bdrv_ref(base);
    merge_rechain(m, top, base);
    merge_end(m);
    blk_unref(to);
    if (rng_chance(&m->g.rng, 50)) {
        merge_read_only(m, base, true);
    }
    bdrv_unref(base);
    guests_wait(&m->g);
    merge_use(m, 2);
}

/* What is in the middle is copied to the last image. */
static void merge_stream(Merge *m)
{
    BlockDriverState *top = blk_bs(m->g.blk), *base = chain_node(0);
    bool stopped = rng_chance(&m->g.rng, 30);

    merge_use(m, 3);
    if (!stopped) {
        guests_enter_all(&m->g, m->g.w->actions / 2);
    }
    merge_start(m);
    /* A tool copies by writes. */
    merge_copy(m, chain_node(1), base, m->g.blk, stopped ? m->g.blk : NULL);
    bdrv_ref(base);
    merge_rechain(m, top, base);
    merge_end(m);
    bdrv_unref(base);
    guests_wait(&m->g);
    merge_use(m, 2);
}

/* All that there is below is copied to the last image. */
static void merge_flatten(Merge *m)
{
    BlockDriverState *top = blk_bs(m->g.blk);

    merge_use(m, 2);
    guests_enter_all(&m->g, m->g.w->actions / 2);
    if (!m->g.w->spread) {
        /* Otherwise there is nothing below. */
        merge_copy(m, chain_node(m->chain->count - 2), NULL, m->g.blk, NULL);
    }
    merge_start(m);
    merge_rechain(m, top, NULL);
    merge_end(m);
    guests_wait(&m->g);
    merge_use(m, 2);
}

BlockDriverState *chain_overlay_open(int level, Error **errp)
{
    g_autofree char *image = image_name(level);
    g_autofree char *file = file_name(level);
    QDict *options = qdict_new();

    qdict_put_str(options, "driver", "vhdx");
    qdict_put_str(options, "node-name", image);
    qdict_put_str(options, "file", file);
    qdict_put_null(options, "backing");
    return bdrv_open(NULL, NULL, options, BDRV_O_RDWR | BDRV_O_RESIZE |
                     BDRV_O_UNMAP, errp);
}

/*
 * An overlay that was made before the guest wrote is put upon the image that is
 * in use, without a flush.  That may stay writable.
 */
static void merge_snapshot(Merge *m)
{
    BlockDriverState *base = blk_bs(m->g.blk), *overlay;
    bool read_only = rng_chance(&m->g.rng, 50);
    Error *err = NULL;
    int ret;

    m->g.disk_size = MIN(m->g.disk_size, m->chain->shape.disk_size);
    merge_use(m, 2);
    overlay = chain_overlay_open(1, &error_abort);
    merge_start(m);
    ret = chain_set_parent(overlay, base, &err);
    if (ret < 0) {
        chain_wrong(m, ret, err, "the overlay can't be put there");
    }
    m->chain->pivot = ++m->g.disk->now;
    bdrv_ref(base);
    blk_remove_bs(m->g.blk);
    blk_insert_bs(m->g.blk, overlay, &error_abort);
    bdrv_unref(overlay);
    if (read_only) {
        merge_read_only(m, base, true);
        m->chain->linked = ++m->g.disk->now;
    } else {
        /*
         * A flush alone is not passed on to the image below, so QEMU flushes
         * that one before.  Here it is the first write that makes it stable.
         */
        guests_write_and_flush(&m->g);
    }
    bdrv_unref(base);
    merge_use(m, 1);
    merge_flush(m);
    merge_end(m);
    merge_use(m, 2);
}

/*
 * An image without a parent gets one, as 'qemu-img rebase' does it, and is used
 * as its child then.  Some lose it again, and may get it once more.
 */
static void merge_adopt(Merge *m)
{
    static const int levels[] = { 0, 1 };

    merge_use(m, 2);
    for (;;) {
        merge_start(m);
        merge_turn(m, "image0.vhdx");
        merge_end(m);
        merge_reopen(m, levels, 2);
        if (m->g.run->wrong->len) {
            return;
        }
        merge_use(m, 2);
        if (rng_chance(&m->g.rng, 60)) {
            break;
        }
        if (rng_chance(&m->g.rng, 50)) {
            m->chain->change_start = ++m->g.disk->now;
        }
        merge_turn(m, NULL);
        merge_end(m);
        merge_use(m, 2);
        if (rng_chance(&m->g.rng, 50)) {
            break;
        }
    }
}

int chain_used(const CrashChain *chain, uint32_t now)
{
    bool snapshot = chain->workload->merge == MERGE_SNAPSHOT;
    bool pivoted = chain->pivot && now >= chain->pivot;

    return snapshot == pivoted ? chain->count - 1 : 0;
}

static void merge_run(Merge *m)
{
    static const int levels[] = { 0, 1, 2 };
    static void (*const merges[])(Merge *) = {
        [MERGE_COMMIT] = merge_commit,
        [MERGE_TROUBLE] = merge_trouble,
        [MERGE_PIVOT] = merge_pivot,
        [MERGE_MIDDLE] = merge_middle,
        [MERGE_STREAM] = merge_stream,
        [MERGE_FLATTEN] = merge_flatten,
        [MERGE_SNAPSHOT] = merge_snapshot,
        [MERGE_ADOPT] = merge_adopt,
    };
    CrashChain *chain = m->chain;
    int used = chain_used(chain, 0);
    bool alone = chain->workload->merge == MERGE_ADOPT;
    Error *err = NULL;
    unsigned index;

    merge_open(m, levels + (alone ? used : 0), alone ? 1 : used + 1, &err);
    if (!m->g.blk) {
        chain_wrong(m, 0, err, "does not open");
        return;
    }
    m->g.disk_size = blk_getlength(m->g.blk);
    if (alone) {
        /* What it has to know of its parent is read from the file. */
        image_dump(chain->runs[0]->base, folder_path(0));
    }
    merges[chain->workload->merge](m);
    if (alone) {
        g_assert(g_file_set_contents(folder_path(0), "", 0, NULL));
    }
    if (!m->g.blk) {
        return;
    }
    if (rng_chance(&m->g.rng, 50)) {
        merge_flush(m);
    }
    index = model_begin(m->g.run->model, GUEST_FLUSH, 0, 0, ++m->g.disk->now);
    blk_unref(m->g.blk);
    chain->closed = !m->g.run->wrong->len;
    model_end(m->g.run->model, index, ++m->g.disk->now,
              chain->closed ? 0 : -EIO);
}

CrashChain *chain_run(const CrashWorkload *w, CrashRng *rng)
{
    CrashChain *chain = g_new0(CrashChain, 1);
    CrashImage *images[CRASH_LEVELS + 1] = { 0 };
    Merge m = {
        .chain = chain,
        .g.w = w,
        .g.shape = &chain->shape,
    };
    CrashRun *made;

    chain->workload = w;
    chain->count = w->levels;
    chain->linked = CRASH_NEVER;
    chain->turns = g_array_new(false, false, sizeof(CrashTurn));
    made = chain_make(chain, images, rng);
    for (int i = 0; i < chain->count; i++) {
        chain->runs[i] = run_new(w, images[i]);
        chain->runs[i]->payload = chain->payload[i];
    }
    chain_check_made(chain, made->model);
    m.g.rng.state = rng_next(rng);
    m.g.run = chain->runs[chain->count - 1];
    m.g.run->model = chain->model;
    for (int i = chain->count - 1; i >= 0; i--) {
        m.disks[i] = chain_disk(image_copy(images[i]), &w->node, rng_next(rng),
                                i, i < chain->count - 1 ?
                                m.disks[chain->count - 1] : NULL);
        m.disks[i]->payload = chain->payload[i];
    }
    m.g.disk = m.disks[chain->count - 1];
    if (!m.g.run->wrong->len) {
        merge_run(&m);
    }
    chain->end = m.g.disk->now;
    model_settle(chain->model);
    if (chain->stale) {
        model_advance(chain->stale, chain->pivot);
    }
    for (int i = 0; i < chain->count; i++) {
        run_end(chain->runs[i], m.disks[i]);
        chain->runs[i]->end = chain->end;
        chain->runs[i]->model = chain->model;
    }
    guest_run_free(made);
    return chain;
}

void chain_free(CrashChain *chain)
{
    for (int i = 0; i < chain->count; i++) {
        chain->runs[i]->model = NULL;
        guest_run_free(chain->runs[i]);
        image_free(chain->siblings[i]);
        for (guint k = 0; chain->contents[i] && k < chain->contents[i]->len;
             k++) {
            CrashPage *page = g_ptr_array_index(chain->contents[i], k);

            if (page) {
                image_page_unref(page);
            }
        }
        g_clear_pointer(&chain->contents[i], g_ptr_array_unref);
    }
    model_free(chain->model);
    model_free(chain->stale);
    g_array_unref(chain->turns);
    g_free(chain);
}
