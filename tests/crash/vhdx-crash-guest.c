/*
 * VHDX crash test: the guests
 *
 * Coroutines that write, zero, discard, flush and read at random, all at the
 * same time.  What they do is noted in the model; what they read is checked
 * there at once.  A session is the time from opening the image to closing it;
 * a run has one or more of them.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/option.h"
#include "block/vhdx/amend.h"
#include "block/vhdx/change.h"
#include "block/vhdx/compact-live.h"
#include "block/vhdx/state.h"
#include "vhdx-crash-dirty.h"
#include "vhdx-test-request.h"

/* So often the main loop may find nothing to do while guests wait. */
#define IDLE_MAX        1000

void run_wrong(CrashRun *run, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    g_ptr_array_add(run->wrong, g_strdup_vprintf(format, ap));
    va_end(ap);
}

void guest_set_early(BlockDriverState *bs, bool early)
{
    BDRVVHDXState *s = bs->opaque;

    s->early_ns = early ? 0 : INT64_MAX;
}

BlockBackend *guest_open(const CrashWorkload *w, int flags, Error **errp)
{
    QDict *options = qdict_new();
    BlockBackend *blk;

    qdict_put_str(options, "driver", "vhdx");
    qdict_put_str(options, "file", "disk");
    if (bdrv_find_node("parent")) {
        qdict_put_str(options, "backing", "parent");
    }
    if (w->small_cache) {
        qdict_put_str(options, "cache-size", "262144");
    }
    blk = blk_new_open(NULL, NULL, options, flags, errp);
    if (blk) {
        guest_set_early(blk_bs(blk), w->early);
    }
    return blk;
}

/* -- One request each -- */

uint32_t guests_stamp(Guests *g)
{
    return ++g->disk->now;
}

/* Whether @sector was behind the end of the disk at any time since @start */
static bool was_behind_end(Guests *g, uint64_t sector, uint32_t start)
{
    const GArray *resizes = g->run->model->resizes;
    uint64_t least = g->disk_size;

    for (guint i = 0; i < resizes->len; i++) {
        const GuestResize *r = &g_array_index(resizes, GuestResize, i);

        if (r->end >= start) {
            least = MIN(least, r->size);
        }
    }
    return sector * CRASH_SECTOR >= least;
}

/*
 * A request of @count sectors at @sector, which began at @start, has the result
 * @ret: it may fail only where something is in its way.
 */
static void guest_judge(Guests *g, const char *what, uint64_t sector,
                        uint64_t count, uint32_t start, int ret)
{
    const CrashWorkload *w = g->w;
    bool no_space = w->full || w->full_close || w->unsure || w->unsure_log ||
                    w->limit_mib || w->node.fixed_size;

    if (ret >= 0 || g->disk->fault_hit || (ret == -ENOSPC && no_space) ||
        (ret == -EIO && count &&
         was_behind_end(g, sector + count - 1, start))) {
        return;
    }
    run_wrong(g->run, "a %s of %" PRIu64 " sectors at %" PRIu64 " fails: %s",
              what, count, sector, strerror(-ret));
}

static int coroutine_fn guest_flush(Guests *g)
{
    uint32_t start = guests_stamp(g), end;
    unsigned index = model_begin(g->run->model, GUEST_FLUSH, 0, 0, start);
    int ret = blk_co_flush(g->blk);

    end = guests_stamp(g);
    model_end(g->run->model, index, end, ret);
    if (ret == 0) {
        model_resize_flushed(g->run->model, start, end);
    }
    guest_judge(g, "flush", 0, 0, start, ret);
    return ret;
}

static int coroutine_fn
guest_write(Guests *g, uint64_t sector, uint64_t count, bool fua)
{
    CrashModel *model = g->run->model;
    size_t bytes = count * CRASH_SECTOR;
    g_autofree uint8_t *buf = g_malloc(bytes);
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf, bytes);
    uint32_t start = guests_stamp(g);
    unsigned index = model_begin(model, GUEST_WRITE, sector, count, start);
    int ret;

    g_array_index(model->ops, GuestOp, index).fua = fua;
    model_fill(model, index, sector, count, buf);
    ret = blk_co_pwritev(g->blk, sector * CRASH_SECTOR, bytes, &qiov,
                         fua ? BDRV_REQ_FUA : 0);
    model_end(model, index, guests_stamp(g), ret);
    guest_judge(g, "write", sector, count, start, ret);
    return ret;
}

static int coroutine_fn
guest_zero(Guests *g, GuestKind kind, uint64_t sector, uint64_t count)
{
    uint32_t start = guests_stamp(g);
    unsigned index = model_begin(g->run->model, kind, sector, count, start);
    int ret;

    if (kind == GUEST_ZERO) {
        ret = blk_co_pwrite_zeroes(g->blk, sector * CRASH_SECTOR,
                                   count * CRASH_SECTOR,
                                   rng_chance(&g->rng, 60) ?
                                   BDRV_REQ_MAY_UNMAP : 0);
    } else {
        ret = co_discard(g->blk, sector * CRASH_SECTOR,
                         count * CRASH_SECTOR);
    }
    model_end(g->run->model, index, guests_stamp(g), ret);
    guest_judge(g, kind == GUEST_ZERO ? "write of zeroes" : "discard", sector,
                count, start, ret);
    return ret;
}

static int coroutine_fn
guest_read(Guests *g, uint64_t sector, uint64_t count)
{
    size_t bytes = count * CRASH_SECTOR;
    g_autofree uint8_t *buf = g_malloc(bytes);
    QEMUIOVector qiov = QEMU_IOVEC_INIT_BUF(qiov, buf, bytes);
    uint32_t start = guests_stamp(g);
    int ret = blk_co_preadv(g->blk, sector * CRASH_SECTOR, bytes, &qiov, 0);
    char *why;

    if (ret == -EIO && was_behind_end(g, sector + count - 1, start)) {
        return ret;
    }
    if (ret < 0) {
        run_wrong(g->run, "a read of sector %" PRIu64 " fails: %s", sector,
                  strerror(-ret));
        return ret;
    }
    why = model_check_read(g->run->model, sector, count, start,
                           guests_stamp(g), buf);
    if (why) {
        g_ptr_array_add(g->run->wrong, why);
    }
    return 0;
}

static int coroutine_fn guest_resize(Guests *g)
{
    uint64_t most = g->w->max_mib * MiB / CRASH_PAGE;
    uint64_t least = MIN(most, g->shape->disk_size / CRASH_PAGE) / 2;
    uint64_t size = (least + rng_below(&g->rng, most - least + 1)) * CRASH_PAGE;
    unsigned index;
    int ret;

    if (g->resizing) {
        return 0;
    }
    g->resizing = true;
    index = model_resize_begin(g->run->model, g->disk_size, size,
                               MAX(g->disk_size, g->w->max_mib * MiB),
                               guests_stamp(g));
    ret = blk_co_truncate(g->blk, size, true, PREALLOC_MODE_OFF, 0, NULL);
    model_resize_end(g->run->model, index, guests_stamp(g), ret);
    if (ret == 0) {
        g->disk_size = size;
    }
    g->resizing = false;
    return ret;
}

/* The image is changed by no request. */
static void guests_change(Guests *g)
{
    uint32_t now = guests_stamp(g);

    tracks_note_all(g->run->model->tracks, EVENT_CHANGE, now, now, 0);
}

/* Progress goes from 0 to the whole, and not back. */
static void amend_status(BlockDriverState *bs, int64_t offset,
                         int64_t total_work_size, void *opaque)
{
    GuestJob *job = opaque;
    double progress = (double)offset / total_work_size;

    if (progress < job->progress || progress > 1) {
        run_wrong(job->g->run, "progress goes from %g to %g", job->progress,
                  progress);
    }
    job->progress = progress;
}

static void job_begin(Guests *g, GuestJob *job)
{
    assert(!job->busy);
    guests_change(g);
    *job = (GuestJob) { .g = g, .busy = true };
}

/* Whether @job may begin: most workloads have one at a time. */
static bool job_may_begin(Guests *g, GuestJob *job)
{
    return !job->busy &&
           (g->w->beside || !(g->compact.busy || g->amend.busy));
}

/*
 * The first look for free space, after a crash, may find data in so much of it,
 * which was freed, that the block size is in doubt: then nothing is compacted.
 * Others judge what there is.
 */
static bool is_in_doubt(int ret, Error *err)
{
    const char *why = ret == -EINVAL ? error_get_pretty(err) : "";

    return strstr(why, "the block size of") || strstr(why, "or are longer");
}

/* Somebody has made the image fixed, before or meanwhile. */
static bool has_become_fixed(Guests *g, int ret, Error *err)
{
    return ret == -ENOTSUP && g->w->beside && g->w->mix.subformat &&
           strstr(error_get_pretty(err), "A fixed image");
}

/* Whether it is enough: the log moves only when all else is done. */
static bool compact_enough(Guests *g, unsigned percent)
{
    return rng_chance(&g->rng, g->w->mix.log_size ? 1 : percent);
}

/* Let others go on; sometimes it is enough. */
static int coroutine_fn GRAPH_RDLOCK
compact_pause(BlockDriverState *bs, void *opaque)
{
    Guests *g = ((GuestJob *)opaque)->g;

    aio_co_schedule(qemu_get_current_aio_context(), qemu_coroutine_self());
    qemu_coroutine_yield();
    return compact_enough(g, 4) ? -ECANCELED : 0;
}

static bool coroutine_fn compact_stop(BlockDriverState *bs, void *opaque)
{
    Guests *g = opaque;

    return compact_enough(g, 6);
}

/* As the job of x-blockdev-amend does for subformat=fixed */
static int coroutine_fn guest_fix_online(Guests *g)
{
    VHDXCompactUser user = {
        .pause = compact_pause,
        .move = { .stop = compact_stop, .opaque = g },
        .opaque = &g->amend,
    };
    VHDXAmend a = {
        .fix = true,
        .prealloc = rng_chance(&g->rng, 30) ? PREALLOC_MODE_FALLOC :
                    PREALLOC_MODE_OFF,
        .status_cb = amend_status,
        .cb_opaque = &g->amend,
        .user = &user,
    };
    Error *err = NULL;
    int ret;

    GRAPH_RDLOCK_GUARD();
    job_begin(g, &g->amend);
    ret = vhdx_amend_change(blk_bs(g->blk), &a, &err);
    if (ret < 0 && ret != -ECANCELED && !is_in_doubt(ret, err) &&
        !(ret == -ENOSPC && g->w->full) && !g->disk->fault_hit) {
        run_wrong(g->run, "making it fixed fails: %s",
                  err ? error_get_pretty(err) : strerror(-ret));
    }
    error_free(err);
    g->amend.busy = false;
    return ret;
}

/* As the job of x-blockdev-amend does */
static int coroutine_fn guest_compact_online(Guests *g)
{
    VHDXCompactUser user = {
        .pause = compact_pause,
        .move = { .stop = compact_stop, .opaque = g },
        .status = amend_status,
        .opaque = &g->compact,
    };
    Error *err = NULL;
    int ret;

    GRAPH_RDLOCK_GUARD();
    job_begin(g, &g->compact);
    ret = vhdx_co_compact_live(blk_bs(g->blk), rng_chance(&g->rng, 50), &user,
                               &err);
    if (ret < 0 && ret != -ECANCELED && !is_in_doubt(ret, err) &&
        !has_become_fixed(g, ret, err) && !(ret == -ENOSPC && g->w->full) &&
        !g->disk->fault_hit) {
        run_wrong(g->run, "compacting fails: %s", error_get_pretty(err));
    }
    error_free(err);
    g->compact.busy = false;
    return ret;
}

/* Do what qemu-img amend does for -o @options. */
static int coroutine_fn guest_amend(Guests *g, const char *options)
{
    BlockDriverState *bs = blk_bs(g->blk);
    QemuOpts *opts = qemu_opts_create(bs->drv->amend_opts, NULL, 0,
                                      &error_abort);
    Error *err = NULL;
    int ret;

    job_begin(g, &g->amend);
    qemu_opts_do_parse(opts, options, NULL, &error_abort);
    ret = bs->drv->bdrv_amend_options(bs, opts, amend_status, &g->amend, false,
                                      &err);
    if (ret < 0 && !is_in_doubt(ret, err) &&
        !(ret == -ENOSPC && g->w->full) && !g->disk->fault_hit) {
        run_wrong(g->run, "%s fails: %s", options, error_get_pretty(err));
    }
    error_free(err);
    qemu_opts_del(opts);
    g->amend.busy = false;
    return ret;
}

static int coroutine_fn guest_compact(Guests *g)
{
    if (g->w->online) {
        return guest_compact_online(g);
    }
    return guest_amend(g, rng_chance(&g->rng, g->w->gaps ? 0 : 50) ?
                       "compact=zeroes" : "compact=space");
}

static int coroutine_fn guest_log_size(Guests *g)
{
    static const char *const sizes[] = {
        "log_size=1M", "log_size=2M", "log_size=3M", "log_size=4M",
    };

    return guest_amend(g, sizes[rng_below(&g->rng, ARRAY_SIZE(sizes))]);
}

static int coroutine_fn guest_subformat(Guests *g)
{
    static const char *const options[] = {
        "subformat=fixed", "subformat=fixed,preallocation=full",
        "subformat=fixed,preallocation=falloc",
        "subformat=dynamic", "subformat=dynamic,compact=zeroes",
        "subformat=dynamic,compact=space,log_size=1M",
        "subformat=fixed,log_size=2M,physical_sector_size=4096,"
        "disk_id=22222222-2222-2222-2222-222222222222",
        "subformat=dynamic,log_size=3M,physical_sector_size=512,"
        "disk_id=11111111-1111-1111-1111-111111111111",
    };
    /* A sector of 512 bytes is too short where it has 4096 for the guest. */
    unsigned count = ARRAY_SIZE(options) - !g->w->only_512;

    if (g->w->online && rng_chance(&g->rng, 40)) {
        return guest_fix_online(g);
    }
    return guest_amend(g, options[rng_below(&g->rng, count)]);
}

/* -- What to do next -- */

typedef struct Range {
    uint64_t sector;
    uint64_t count;
} Range;

/* Cut @r to the disk, and align it to the guest's sectors. */
static Range range_fit(Guests *g, Range r)
{
    uint64_t unit = g->shape->sector_size / CRASH_SECTOR;
    uint64_t sectors = g->disk_size / CRASH_SECTOR;

    r.sector = ROUND_UP(r.sector + 1, unit) - unit;
    r.sector = MIN(r.sector, sectors - unit);
    r.count = ROUND_UP(r.count, unit);
    r.count = MIN(r.count, sectors - r.sector);
    return r;
}

/* How many blocks, if they are whole ones */
static uint64_t blocks_choose(Guests *g)
{
    if (g->w->big_mib) {
        return 1 + rng_below(&g->rng, g->w->big_mib * MiB /
                                      g->shape->block_size);
    }
    return rng_chance(&g->rng, 20) ? 2 : 1;
}

/* The first sector of a block that is new, to several guests at once */
static uint64_t sector_in_turn(Guests *g)
{
    uint64_t block = g->shape->block_size / CRASH_SECTOR;
    uint64_t blocks = DIV_ROUND_UP(g->disk_size, g->shape->block_size);

    return blocks * (g->w->actions - g->left) / (g->w->actions + 1) * block;
}

/*
 * In a child: parts of blocks that together are the whole, with one sector
 * missing here and there, and more than one request for the same sectors.
 */
static Range range_in_child(Guests *g, GuestKind kind)
{
    uint64_t block = g->shape->block_size / CRASH_SECTOR;
    uint64_t blocks = DIV_ROUND_UP(g->disk_size, g->shape->block_size);
    uint64_t unit = g->shape->sector_size / CRASH_SECTOR;
    unsigned size = rng_below(&g->rng, 100);
    Range r;

    if (g->w->spread) {
        r.sector = rng_below(&g->rng, g->w->spread) *
                   (g->w->apart ?: 512) % blocks * block;
    } else if (rng_chance(&g->rng, 50)) {
        r.sector = sector_in_turn(g);
    } else {
        r.sector = rng_below(&g->rng, blocks) * block;
    }
    if (kind == GUEST_WRITE ? size < g->w->big :
                              rng_chance(&g->rng, g->w->whole)) {
        r.count = block * blocks_choose(g);
    } else if (size < 40 && !g->w->spread) {
        r.sector += rng_below(&g->rng, 4) * (block / 4);
        r.count = block / 4 - (rng_chance(&g->rng, 20) ? unit : 0);
    } else {
        r.sector += rng_below(&g->rng, rng_chance(&g->rng, 50) ? 64 : block);
        r.count = rng_below(&g->rng, rng_chance(&g->rng, 70) ? 16 : 128) + 1;
    }
    return range_fit(g, r);
}

static Range range_choose(Guests *g, GuestKind kind)
{
    uint64_t area = g->disk_size / CRASH_SECTOR;
    uint64_t block = g->shape->block_size / CRASH_SECTOR;
    unsigned size = rng_below(&g->rng, 100);
    Range r;

    if (g->w->child) {
        return range_in_child(g, kind);
    }
    if (g->w->one_page_each && kind == GUEST_WRITE) {
        /* A page of the BAT is of 512 entries. */
        uint64_t stride = 512 * block;

        r.sector = g->next_page++ * stride % area + rng_below(&g->rng, 64) * 8;
        r.count = rng_below(&g->rng, 4) + 1;
        return range_fit(g, r);
    }
    if (g->w->area_kib) {
        area = MIN(area, g->w->area_kib * KiB / CRASH_SECTOR);
    }
    if (g->w->rest && kind != GUEST_WRITE &&
        rng_chance(&g->rng, g->w->rest)) {
        r.sector = rng_below(&g->rng, area / 8);
        r.sector -= r.sector % block;
        r.count = area - r.sector;
        return range_fit(g, r);
    }
    r.sector = g->w->in_turn ?
               sector_in_turn(g) + rng_below(&g->rng, block) :
               rng_below(&g->rng, area);
    if (kind != GUEST_WRITE && rng_chance(&g->rng, g->w->whole)) {
        r.sector -= r.sector % block;
        r.count = block * blocks_choose(g);
        return range_fit(g, r);
    }
    if (size < g->w->big) {
        r.count = rng_below(&g->rng, (g->w->big_mib ?: 5) * MiB /
                                     CRASH_SECTOR) + 1;
    } else if (size < 50) {
        r.count = rng_below(&g->rng, 8) + 1;
    } else if (size < 90) {
        r.count = rng_below(&g->rng, 128) + 1;
    } else {
        r.count = rng_below(&g->rng, 1024) + 1;
    }
    if (rng_chance(&g->rng, 30)) {
        /* At the start of a block */
        r.sector -= r.sector % block;
    }
    return range_fit(g, r);
}

static int coroutine_fn guest_act(Guests *g)
{
    const CrashMix *mix = &g->w->mix;
    unsigned dice = rng_below(&g->rng, 100);
    bool bursts = g->w->burst[0];
    GuestJob *job;
    Range r;

    if (bursts && !g->burst_left--) {
        g->burst = (g->burst + 1) % ARRAY_SIZE(g->w->burst);
        g->burst_left = g->w->burst[g->burst];
        return guest_flush(g);
    }
    if (dice < mix->flush) {
        return guest_flush(g);
    }
    dice -= mix->flush;
    if (dice < mix->zero) {
        r = range_choose(g, GUEST_ZERO);
        return guest_zero(g, GUEST_ZERO, r.sector, r.count);
    }
    dice -= mix->zero;
    if (dice < mix->discard) {
        r = range_choose(g, GUEST_DISCARD);
        return guest_zero(g, GUEST_DISCARD, r.sector, r.count);
    }
    dice -= mix->discard;
    if (dice < mix->resize) {
        return guest_resize(g);
    }
    dice -= mix->resize;
    if (dice < mix->compact) {
        job = g->w->online ? &g->compact : &g->amend;
        return job_may_begin(g, job) ? guest_compact(g) : 0;
    }
    dice -= mix->compact;
    if (dice < mix->log_size) {
        return job_may_begin(g, &g->amend) ? guest_log_size(g) : 0;
    }
    dice -= mix->log_size;
    if (dice < mix->subformat) {
        return job_may_begin(g, &g->amend) ? guest_subformat(g) : 0;
    }
    dice -= mix->subformat;
    if (dice < mix->command) {
        g->command = true;
        return 0;
    }
    dice -= mix->command;
    r = range_choose(g, GUEST_WRITE);
    if (dice < mix->read) {
        return guest_read(g, r.sector, r.count);
    }
    return guest_write(g, r.sector, r.count,
                       !bursts && rng_chance(&g->rng, 4));
}

static void coroutine_fn guest_entry(void *opaque)
{
    Guests *g = opaque;

    while (g->left) {
        if (g->w->resume && g->disk->fault_hit && rng_chance(&g->rng, 50)) {
            /* There is more to do when writing has been resumed. */
            break;
        }
        g->left--;
        if (g->w->full && rng_chance(&g->rng, 6)) {
            g->disk->full = true;
        }
        if (guest_act(g) == -ENOSPC && rng_chance(&g->rng, 60)) {
            g->disk->full = false;
        }
    }
    g->running--;
}

/* Nothing hinders any more: a write and a flush must succeed. */
static void coroutine_fn guest_last(void *opaque)
{
    Guests *g = opaque;
    Range r = range_choose(g, GUEST_WRITE);
    int ret;

    if (g->disk_size / CRASH_SECTOR > r.count) {
        r.count = g->shape->sector_size / CRASH_SECTOR;
    }
    ret = guest_write(g, r.sector, r.count, false);
    if (ret == -ENOSPC && (g->w->limit_mib || g->run->node.fixed_size)) {
        ret = 0;
    }
    if (ret == 0) {
        ret = guest_flush(g);
    }
    if (ret < 0 && !g->disk->fault_hit) {
        run_wrong(g->run, "there is space, but write or flush fail: %s",
                  strerror(-ret));
    }
    g->running--;
}

static void guests_enter(Guests *g, CoroutineEntry *entry, unsigned count)
{
    g->running = count;
    while (count--) {
        qemu_coroutine_enter(qemu_coroutine_create(entry, g));
    }
}

void guests_enter_all(Guests *g, unsigned actions)
{
    g->left = actions;
    guests_enter(g, guest_entry, g->w->guests);
}

void guests_wait(Guests *g)
{
    unsigned idle = 0;

    while (g->running) {
        if (g->command) {
            g->command = false;
            guests_command(g);
        }
        idle = aio_poll(qemu_get_aio_context(), false) ? 0 : idle + 1;
        if (idle > IDLE_MAX) {
            printf("# workload %s: %u requests wait for nothing\n",
                   g->w->name, g->running);
            fflush(stdout);
            abort();
        }
    }
}

static void guests_start(Guests *g, CoroutineEntry *entry, unsigned count)
{
    guests_enter(g, entry, count);
    guests_wait(g);
}

/* -- Runs -- */

/* One operation is going to fail. */
static void
fault_choose(CrashDisk *disk, const CrashWorkload *w, CrashRng *rng)
{
    static const CrashOpKind kinds[] = {
        OP_WRITE, OP_WRITE, OP_WRITE, OP_FLUSH, OP_FLUSH, OP_FLUSH, OP_ZERO,
        OP_DISCARD, OP_TRUNCATE,
    };

    disk->fault = (CrashFault) {
        .kind = kinds[rng_below(rng, ARRAY_SIZE(kinds))],
        .metadata = rng_chance(rng, 70),
        .countdown = 1 + rng_below(rng, 24),
        .lose = rng_chance(rng, 60),
        .stick = rng_chance(rng, 30),
    };
    if (w->lose) {
        /* One of those that come after the opening of the log */
        disk->fault = (CrashFault) {
            .kind = OP_FLUSH,
            .countdown = 5 + rng_below(rng, w->resume ? 20 : 10),
            .lose = true,
        };
    }
    if (w->rest && rng_chance(rng, 70)) {
        disk->fault.kind = OP_TRUNCATE;
        disk->fault.countdown = 1 + rng_below(rng, 5);
    }
}

void guests_exempt(Guests *g)
{
    for (guint i = 0; g->disk->lose_to && i < g->run->model->ops->len; i++) {
        GuestOp *op = &g_array_index(g->run->model->ops, GuestOp, i);

        op->exempt |= op->start <= g->disk->lose_to &&
                      op->end >= g->disk->lose_from;
    }
}

bool guests_resume(Guests *g)
{
    BlockDriverState *bs = blk_bs(g->blk);
    BDRVVHDXState *s = bs->opaque;
    /* New blocks are in doubt whose data was to be stable before them. */
    bool doubt = vhdx_change_is_broken(s) && vhdx_change_is_ordered(s);
    Error *err = NULL;
    unsigned index = model_begin(g->run->model, GUEST_FLUSH, 0, 0,
                                 guests_stamp(g));
    int ret;

    /* To become inactive closes the log, so that it matters less. */
    if (rng_chance(&g->rng, 80)) {
        ret = bdrv_reopen(bs, qdict_new(), true, &err);
    } else {
        blk_set_force_allow_inactivate(g->blk);
        ret = bdrv_inactivate_all();
        bdrv_activate_all(&error_abort);
    }
    model_end(g->run->model, index, guests_stamp(g), ret);
    if (ret < 0 && !doubt) {
        run_wrong(g->run, "writing can't be resumed: %s",
                  err ? error_get_pretty(err) : strerror(-ret));
    } else if (doubt && !vhdx_change_is_broken(s)) {
        run_wrong(g->run, "writing is resumed, though data may be lost");
    }
    error_free(err);
    return ret == 0;
}

void guests_write_and_flush(Guests *g)
{
    guests_start(g, guest_last, 1);
}

/* From open to close.  Returns whether all went well. */
static bool guests_session(Guests *g, unsigned actions, unsigned count)
{
    const unsigned flags = BDRV_O_RDWR | BDRV_O_RESIZE | BDRV_O_UNMAP;
    Error *err = NULL;
    uint32_t start, end;
    unsigned index;
    bool past, clean;

    g->blk = guest_open(g->w, flags, &err);
    if (!g->blk) {
        run_wrong(g->run, "does not open: %s", error_get_pretty(err));
        error_free(err);
        return false;
    }
    g->disk_size = blk_getlength(g->blk);
    if (!g->run->model->first_size) {
        g->run->model->first_size = g->disk_size;
    }
    guests_bitmaps(g);
    g->left = actions;
    g->disk->unsure = g->w->unsure;
    g->disk->unsure_log = g->w->unsure_log;
    guests_start(g, guest_entry, count);
    if (g->w->stores && rng_chance(&g->rng, g->w->stores)) {
        guests_mend(g);
        guests_stopped(g, false);
        guests_store(g);
        guests_mend(g);
        g->left = actions / 2;
        guests_start(g, guest_entry, count);
    }
    if (g->w->store_fails) {
        guests_mend(g);
    }
    if (g->w->resume && g->disk->fault_hit && guests_resume(g)) {
        g->disk->fault_hit = false;
        guests_start(g, guest_entry, count);
    }
    g->disk->full = false;
    g->disk->unsure = g->disk->unsure_log = 0;
    /* Any operation that has failed is past, but for a flush. */
    past = g->disk->fault_hit && g->disk->fault.kind != OP_FLUSH;
    if (past || !g->disk->fault_hit) {
        g->disk->fault_hit = false;
        guests_start(g, guest_last, 1);
    }
    if (g->w->full_close) {
        g->left = actions / 4;
        guests_start(g, guest_entry, count);
        g->disk->solid = true;
    }

    guests_stopped(g, true);
    guests_may_fail(g, 25);
    start = guests_stamp(g);
    index = model_begin(g->run->model, GUEST_FLUSH, 0, 0, start);
    blk_unref(g->blk);
    if (g->w->store_fails) {
        g->disk->fault.countdown = 0;
    }
    clean = !g->disk->fault_hit && !g->run->wrong->len;
    end = guests_stamp(g);
    model_end(g->run->model, index, end, clean ? 0 : -EIO);
    tracks_note_all(g->run->model->tracks, EVENT_STORE, start, end,
                    !clean ? -EIO : g->w->full_close ? -ENOSPC : 0);
    /* What could not be put in place is in the log then. */
    g->disk->solid = false;
    return clean && !g->w->full_close;
}

CrashRun *run_new(const CrashWorkload *w, CrashImage *base)
{
    CrashRun *run = g_new(CrashRun, 1);

    *run = (CrashRun) {
        .workload = w,
        .base = base,
        .node = w->node,
        .wrong = g_ptr_array_new_with_free_func(g_free),
    };
    return run;
}

void run_end(CrashRun *run, CrashDisk *disk)
{
    run->end = disk->now;
    run->ops = g_ptr_array_ref(disk->ops);
    run->last = image_copy(disk->view);
    disk_free(disk);
}

/* What the image has of dirty bitmaps at first is what they must have. */
static void tracks_of_base(CrashRun *run)
{
    char *why;
    CrashReader *r = reader_new(run->base, NULL, &why);

    if (!r) {
        g_ptr_array_add(run->wrong, why);
        return;
    }
    run->model->tracks = tracks_new(r->dirty_bitmaps, r->disk_size,
                                    run->workload->max_mib * MiB);
    /* QEMU's may have bits behind a disk's end, which show when it grows. */
    run->model->tracks->rough = run->workload->full_close ||
                                run->workload->max_mib;
    reader_free(r);
}

CrashRun *guest_run(const CrashWorkload *w, const CrashShape *shape,
                    const CrashImage *base, const CrashModel *before,
                    const uint32_t *seen, bool brief, uint64_t seed)
{
    CrashRun *run = run_new(w, image_copy(base));
    CrashRng rng = { seed };
    Guests g = {
        .w = w,
        .shape = shape,
        .run = run,
        .disk = disk_new(image_copy(base), &run->node, rng_next(&rng)),
        .next_page = rng_below(&rng, 4096),
        .burst_left = w->burst[0],
    };
    unsigned sessions = brief ? 1 : MAX(w->sessions, 1);

    g.rng.state = rng_next(&rng);
    run->model = model_new(before, seen, shape);
    if (w->bitmaps) {
        tracks_of_base(run);
    }
    record_run(w, base, run->model);
    run->payload = g.disk->payload = shape->payload;
    if (shape->parent_size) {
        disk_add_parent(g.disk, shape->parent_size, parent_page);
    }
    g.disk->limit = w->limit_mib * MiB;
    if (w->fail && !brief) {
        fault_choose(g.disk, w, &g.rng);
    }
    run->closed = true;
    for (unsigned i = 0; i < sessions && run->closed; i++) {
        unsigned actions = brief ? rng_below(&rng, 3) : w->actions;

        run->closed = guests_session(&g, actions, brief && !w->bitmaps ? 2 :
                                     w->guests);
    }
    record_run_end();
    guests_exempt(&g);
    run_end(run, g.disk);
    model_settle(run->model);
    return run;
}

void guest_run_free(CrashRun *run)
{
    image_free(run->base);
    image_free(run->last);
    g_ptr_array_unref(run->ops);
    g_ptr_array_unref(run->wrong);
    model_free(run->model);
    g_free(run);
}
