/*
 * VHDX unit tests: requests from several threads
 *
 * Workers, which are coroutines spread over several threads, read, write, zero
 * and discard in the same image at once; see vhdx-test-model.h for how they
 * know what to expect.  The log is short and, in most runs, the page cache is
 * small, so that commits, checkpoints and page eviction happen all the time.
 * The main thread meanwhile asks for information, drains the node, and makes
 * the disk longer and shorter.  In the end the image must pass check, and hold
 * what the model says: as it is, as it would be after a crash, and when it was
 * closed and opened again.
 *
 * In a chain, an image gets some of the requests, then one over it, and so on:
 * the model knows nothing of that.  A child keeps its size.
 *
 * In some runs the image is compacted all the time as well, by the job of
 * x-blockdev-amend, and log entries are written beside their data.
 *
 * The same runs in one thread show what is no matter of threads.
 *
 * VHDX_TEST_OPS sets the number of requests of each worker in a run.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/job.h"
#include "qemu/main-loop.h"
#include "qapi/qapi-commands-block-core.h"
#include "qapi/qapi-visit-block-core.h"
#include "block/vhdx/cache.h"
#include "block/vhdx/lock.h"
#include "iothread.h"
#include "vhdx-test-model.h"
#include "vhdx-test-request.h"

#define THREADS         4
#define MAX_BYTES       (2 * BLOCK)     /* in one request */
#define ODD             (74 * KiB + SECTOR)

typedef struct Run {
    BlockBackend *blk;
    Model *model;
    IOThread *threads[THREADS];
    unsigned parents;               /* images below this one */
    bool full;                      /* space is short: writes may fail */
    bool compacts;
    unsigned compactions;           /* that have ended */
    unsigned ops;
    unsigned running;               /* workers; the main thread's */
    uint32_t next_id;               /* numbers used in runs before */
} Run;

typedef struct Worker {
    Run *run;
    int index;
    GRand *rand;
    uint32_t id;                    /* the last number used */
    uint8_t *buf;
} Worker;

static char *test_dir;
static char *image_path;
static char *crash_path;
static unsigned test_ops = 500;
static unsigned first_seed;         /* for other random numbers */

/* -- Workers -- */

static int32_t pick(Worker *w, int32_t end)
{
    return g_rand_int_range(w->rand, 0, end);
}

/* Which results are right: lack of space only if there may be one. */
static void check_ret(Worker *w, int ret)
{
    if (ret < 0 && !(ret == -ENOSPC && w->run->full)) {
        g_error("worker %d: %s", w->index, strerror(-ret));
    }
}

/* Sectors in a row that belong to the worker, in any area. */
static Area *pick_own(Worker *w, unsigned *sector, unsigned *count)
{
    int i = pick(w, 3) ? pick(w, SHARED_AREAS) : SHARED_AREAS + w->index;
    Area *area = &w->run->model->areas[i];
    unsigned at, max;

    if (area->owner < 0) {
        unsigned lap = STRIPE * WORKERS;

        at = pick(w, BLOCK_SECTORS / lap) * lap + w->index * STRIPE;
        max = STRIPE;
    } else {
        /* Mostly where one block ends and another begins. */
        at = pick(w, 2) ? 0 : (1 + pick(w, OWN_BLOCKS - 1)) * BLOCK_SECTORS -
                              STRIPE / 2;
        max = pick(w, 16) ? STRIPE : area->sectors - at;
        max = MIN(max, MAX_BYTES / SECTOR);
    }
    *sector = at + pick(w, max);
    *count = 1 + pick(w, at + max - *sector);
    return area;
}

static void coroutine_fn do_write(Worker *w)
{
    unsigned sector, count;
    Area *area = pick_own(w, &sector, &count);
    Counts ended = area_ended(area);
    int ret;

    w->id++;
    area_fill(area, sector, count, w->id, w->buf);
    ret = blk_co_pwrite(w->run->blk, (area->start + sector) * SECTOR,
                        (uint64_t)count * SECTOR, w->buf, 0);
    check_ret(w, ret);
    area_note(area, sector, count, w->id, &ended, ret);
}

static void coroutine_fn do_zero(Worker *w)
{
    unsigned sector, count;
    Area *area = pick_own(w, &sector, &count);
    Counts ended = area_ended(area);
    int ret = blk_co_pwrite_zeroes(w->run->blk,
                                   (area->start + sector) * SECTOR,
                                   (uint64_t)count * SECTOR,
                                   pick(w, 2) ? BDRV_REQ_MAY_UNMAP : 0);

    check_ret(w, ret);
    area_note(area, sector, count, 0, &ended, ret);
}

static void coroutine_fn do_discard(Worker *w)
{
    unsigned sector, count;
    Area *area = pick_own(w, &sector, &count);
    int ret = co_discard(w->run->blk, (area->start + sector) * SECTOR,
                         (uint64_t)count * SECTOR);

    check_ret(w, ret);
    area_note_discard(area, sector, count);
}

/* A whole block, which then reads as zeros and loses its place. */
static void coroutine_fn do_free(Worker *w)
{
    int i = SHARED_AREAS + w->index;
    Area *area;
    unsigned block = 0;
    int64_t at;
    int ret;

    if (pick(w, 4)) {
        i = w->index + WORKERS * pick(w, DIV_ROUND_UP(SHARED_AREAS - w->index,
                                                      WORKERS));
    } else {
        block = pick(w, OWN_BLOCKS);
    }
    area = &w->run->model->areas[i];
    g_assert_cmpint(area->freer, ==, w->index);
    at = area->start * SECTOR + block * BLOCK;

    area_free_begin(area, block);
    if (pick(w, 2)) {
        ret = co_discard(w->run->blk, at, BLOCK);
    } else {
        ret = blk_co_pwrite_zeroes(w->run->blk, at, BLOCK, BDRV_REQ_MAY_UNMAP);
    }
    check_ret(w, ret);
    if (ret == 0) {
        area_free_end(area, block);
    }
}

/* A whole area, or some of it, that others may be writing to. */
static void coroutine_fn do_read(Worker *w)
{
    int i = pick(w, 4) ? pick(w, SHARED_AREAS) : SHARED_AREAS + w->index;
    Area *area = &w->run->model->areas[i];
    unsigned sector = pick(w, 4) ? pick(w, area->sectors) : 0;
    unsigned count = pick(w, 4) ? 1 + pick(w, 2 * STRIPE) : area->sectors;
    Counts ended = area_ended(area);
    int ret;

    count = MIN(count, area->sectors - sector);
    count = MIN(count, MAX_BYTES / SECTOR);
    ret = blk_co_pread(w->run->blk, (area->start + sector) * SECTOR,
                       (uint64_t)count * SECTOR, w->buf, 0);
    g_assert_cmpint(ret, >=, 0);
    area_compare(area, sector, count, w->index, &ended, w->buf);
}

static void coroutine_fn do_status(Worker *w)
{
    Area *area = &w->run->model->areas[pick(w, AREAS)];
    int64_t at = area->start * SECTOR;
    int64_t end = at + area->sectors * SECTOR;

    GRAPH_RDLOCK_GUARD();
    while (at < end) {
        int64_t n;
        int ret = bdrv_co_block_status(blk_bs(w->run->blk), at, end - at, &n,
                                       NULL, NULL);

        g_assert_cmpint(ret, >=, 0);
        g_assert_cmpint(n, >, 0);
        at += n;
    }
}

static void coroutine_fn do_flush(Worker *w)
{
    check_ret(w, blk_co_flush(w->run->blk));
}

/* Run by the main thread. */
static void worker_ended(void *opaque)
{
    Worker *w = opaque;

    w->run->next_id = MAX(w->run->next_id, w->id);
    w->run->running--;
    g_rand_free(w->rand);
    g_free(w->buf);
    g_free(w);
}

static void coroutine_fn worker_run(void *opaque)
{
    static void coroutine_fn (*const actions[])(Worker *w) = {
        do_write, do_write, do_write, do_write, do_write, do_write, do_write,
        do_read, do_read, do_read, do_free, do_zero, do_discard, do_status,
        do_flush,
    };
    Worker *w = opaque;

    for (unsigned i = 0; i < w->run->ops; i++) {
        actions[pick(w, G_N_ELEMENTS(actions))](w);
    }
    aio_bh_schedule_oneshot(qemu_get_aio_context(), worker_ended, w);
}

/* -- The main thread -- */

static void ask_info(BlockDriverState *bs)
{
    ImageInfoSpecific *info;

    GRAPH_RDLOCK_GUARD_MAINLOOP();
    info = bdrv_get_specific_info(bs, &error_abort);
    g_assert_cmpint(strlen(info->u.vhdx.data->data_write_uuid), ==, 36);
    qapi_free_ImageInfoSpecific(info);
}

static void resize(Run *run, int64_t size)
{
    int ret = blk_truncate(run->blk, size, true, PREALLOC_MODE_OFF, 0, NULL);

    if (ret == 0) {
        g_assert_cmpint(blk_getlength(run->blk), ==, size);
    } else {
        g_assert_cmpint(ret, ==, -ENOSPC);
        g_assert_true(run->full);
    }
}

#define JOB_ID  "compact"

/* Look whether a compaction has ended.  Returns whether there is one. */
static bool compact_poll(Run *run)
{
    Job *job;
    JOB_LOCK_GUARD();

    job = job_get_locked(JOB_ID);
    if (!job || job->status != JOB_STATUS_CONCLUDED) {
        return job != NULL;
    }
    if (job->ret < 0) {
        g_error("compacting: %s", strerror(-job->ret));
    }
    run->compactions++;
    job_dismiss_locked(&job, &error_abort);
    return false;
}

static void compact_start(Run *run)
{
    BlockdevAmendOptions options = {
        .driver = BLOCKDEV_DRIVER_VHDX,
        .u.vhdx = {
            .has_compact = true,
            .compact = run->compactions % 2 ? VHDX_COMPACT_ZEROES :
                                              VHDX_COMPACT_SPACE,
        },
    };

    qmp_x_blockdev_amend(JOB_ID, bdrv_get_node_name(blk_bs(run->blk)),
                         &options, false, false, &error_abort);
}

static void run_workers(Run *run, unsigned seed, unsigned ops)
{
    run->ops = ops;
    run->running = WORKERS;
    for (int i = 0; i < WORKERS; i++) {
        Worker *w = g_new(Worker, 1);
        IOThread *thread = run->threads[i % THREADS];

        *w = (Worker) {
            .run = run,
            .index = i,
            .rand = g_rand_new_with_seed((first_seed + seed) * WORKERS + i),
            .id = run->next_id,
            .buf = g_malloc(MAX_BYTES),
        };
        aio_co_enter(thread ? iothread_get_aio_context(thread) :
                     qemu_get_aio_context(),
                     qemu_coroutine_create(worker_run, w));
    }
    for (unsigned i = 1; run->running; i++) {
        if (run->compacts && !compact_poll(run)) {
            compact_start(run);
        }
        if (!aio_poll(qemu_get_aio_context(), !run->threads[0])) {
            g_usleep(1000);
            ask_info(blk_bs(run->blk));
        }
        if (i % 64 == 0) {
            /* As block_resize does it: the block layer asks for that. */
            bdrv_drained_begin(blk_bs(run->blk));
            if (!run->parents) {
                resize(run, DISK_SIZE + i / 64 % 4 * BLOCK);
            }
            bdrv_drained_end(blk_bs(run->blk));
        }
    }
    while (run->compacts && compact_poll(run)) {
        aio_poll(qemu_get_aio_context(), true);
    }
}

/* Open the image, within @bytes bytes of its file unless that is 0. */
static BlockBackend *open_image(const char *path, uint64_t bytes, int flags)
{
    QDict *options = qdict_new();

    qdict_put_str(options, "driver", "vhdx");
    qdict_put_str(options, "discard", "unmap");
    if (bytes) {
        qdict_put_str(options, "file.driver", "raw");
        qdict_put_int(options, "file.size", bytes);
        qdict_put_str(options, "file.discard", "unmap");
        qdict_put_str(options, "file.file.driver", "file");
        qdict_put_str(options, "file.file.filename", path);
        path = NULL;
    }
    /* What a flush of the file is good for is not the matter here. */
    return blk_new_open(path, NULL, options, flags | BDRV_O_NO_FLUSH,
                        &error_abort);
}

/*
 * The image passes check and holds what the model says.  With @tail the file
 * may be longer than what is in it.
 */
static void check_image(BlockBackend *blk, Model *model, bool tail)
{
    g_autofree uint8_t *buf = g_malloc(OWN_BLOCKS * BLOCK);
    BdrvCheckResult result = { 0 };

    g_assert_cmpint(bdrv_check(blk_bs(blk), &result, 0), ==, 0);
    g_assert_cmpint(result.corruptions, ==, 0);
    g_assert_true(tail || result.leaks == 0);
    g_assert_cmpint(result.check_errors, ==, 0);
    for (int i = 0; i < AREAS; i++) {
        Area *area = &model->areas[i];
        Counts ended = area_ended(area);

        g_assert_cmpint(blk_pread(blk, area->start * SECTOR,
                                  area->sectors * SECTOR, buf, 0), >=, 0);
        area_compare(area, 0, area->sectors, -1, &ended, buf);
    }
}

/* Copy the image as a crash would leave it; holes stay holes. */
static void copy_image(void)
{
    g_autofree uint8_t *buf = g_malloc(MiB);
    int from = open(image_path, O_RDONLY);
    int to = open(crash_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    off_t at = 0;
    ssize_t n;

    g_assert_cmpint(from, >=, 0);
    g_assert_cmpint(to, >=, 0);
    while ((n = pread(from, buf, MiB, at)) > 0) {
        if (!buffer_is_zero(buf, n)) {
            g_assert_cmpint(pwrite(to, buf, n, at), ==, n);
        }
        at += n;
    }
    g_assert_cmpint(n, ==, 0);
    g_assert_cmpint(ftruncate(to, at), ==, 0);
    close(from);
    close(to);
}

static void create_image(void)
{
    g_autofree char *options = g_strdup_printf("block_size=%" PRIu64
                                               ",log_size=%" PRIu64,
                                               (uint64_t)BLOCK, (uint64_t)MiB);

    unlink(image_path);
    bdrv_img_create(image_path, "vhdx", NULL, NULL, options, DISK_SIZE,
                    BDRV_O_RDWR, true, &error_abort);
}

/* Check an image that was closed, opened for reading and for writing. */
static void check_closed(const char *path, Model *model, bool tail)
{
    static const int flags[] = { 0, BDRV_O_RDWR };

    for (size_t i = 0; i < G_N_ELEMENTS(flags); i++) {
        BlockBackend *blk = open_image(path, 0, flags[i]);

        check_image(blk, model, tail);
        blk_unref(blk);
    }
}

static Run *run_new(bool threads)
{
    Run *run = g_new0(Run, 1);

    run->model = model_new();
    for (int i = 0; threads && i < THREADS; i++) {
        run->threads[i] = iothread_new();
    }
    create_image();
    return run;
}

static void run_open(Run *run, const char *path, uint64_t bytes,
                     unsigned cache_pages)
{
    BDRVVHDXState *s;

    run->blk = open_image(path, bytes, BDRV_O_RDWR | BDRV_O_UNMAP |
                          BDRV_O_RESIZE);
    s = blk_bs(run->blk)->opaque;
    s->early_ns = run->compacts ? 0 : s->early_ns;
    VHDX_LOCK_GUARD(s);
    vhdx_cache_set_limit(s, cache_pages * (uint64_t)VHDX_PAGE_SIZE);
}

/* A parent of the image, of which number 0 is the lowest */
static char *parent_path(unsigned number)
{
    g_autofree char *name = g_strdup_printf("parent-%u.vhdx", number);

    return g_build_filename(test_dir, name, NULL);
}

/* Let the image, which is closed, be the parent of a new one in its place. */
static void run_stack(Run *run)
{
    g_autofree char *path = parent_path(run->parents++);
    g_autofree char *options = g_strdup_printf("block_size=%" PRIu64,
                                               (uint64_t)BLOCK);

    g_assert_cmpint(rename(image_path, path), ==, 0);
    bdrv_img_create(image_path, "vhdx", path, "vhdx", options, UINT64_MAX,
                    BDRV_O_RDWR, true, &error_abort);
}

static void run_end(Run *run)
{
    while (run->parents) {
        g_autofree char *path = parent_path(--run->parents);

        unlink(path);
    }
    for (int i = 0; run->threads[0] && i < THREADS; i++) {
        iothread_join(run->threads[i]);
    }
    model_free(run->model);
    g_free(run);
    unlink(image_path);
    unlink(crash_path);
}

/* -- Cases -- */

/*
 * Everything at once, then a crash, and everything at once on a dirty log: in
 * an image over @parents others.
 */
static void run_chain(bool threads, unsigned parents, unsigned seed,
                      unsigned cache_pages)
{
    Run *run = run_new(threads);

    while (run->parents < parents) {
        run_open(run, image_path, 0, cache_pages);
        run_workers(run, seed++, test_ops / 4);
        blk_unref(run->blk);
        run_stack(run);
    }
    run_open(run, image_path, 0, cache_pages);
    run_workers(run, seed, test_ops);
    g_assert_cmpint(blk_flush(run->blk), ==, 0);
    copy_image();
    check_image(run->blk, run->model, false);
    blk_unref(run->blk);
    check_closed(image_path, run->model, false);

    run_open(run, crash_path, 0, cache_pages);
    check_image(run->blk, run->model, true);
    blk_unref(run->blk);
    run_open(run, crash_path, 0, cache_pages);
    run_workers(run, seed + 100, test_ops / 4);
    check_image(run->blk, run->model, false);
    blk_unref(run->blk);
    check_closed(crash_path, run->model, false);
    run_end(run);
}

static void run_all(bool threads, unsigned seed, unsigned cache_pages)
{
    run_chain(threads, 0, seed, cache_pages);
}

/*
 * Space for a part of the blocks only, in a node that can't grow and whose
 * length is @rest bytes above a whole number of MiB.  Then a crash, and all
 * again within the same length, which the log must not go beyond.
 */
static void run_full(bool threads, unsigned seed, unsigned rest)
{
    Run *run = run_new(threads);
    struct stat st;
    uint64_t bytes;

    g_assert_cmpint(stat(image_path, &st), ==, 0);
    bytes = ROUND_UP(st.st_size, MiB) + (AREAS / 2) * BLOCK + rest;
    g_assert_cmpint(truncate(image_path, bytes), ==, 0);
    run->full = true;
    run_open(run, image_path, bytes, 16);
    run_workers(run, seed, test_ops);
    g_assert_cmpint(blk_flush(run->blk), ==, 0);
    copy_image();
    check_image(run->blk, run->model, false);
    blk_unref(run->blk);
    check_closed(image_path, run->model, true);

    run_open(run, crash_path, bytes, 16);
    run_workers(run, seed + 100, test_ops / 4);
    check_image(run->blk, run->model, false);
    blk_unref(run->blk);
    check_closed(crash_path, run->model, true);
    run_end(run);
}

/* Compacted while it is used, an image over @parents others */
static void run_compacted(bool threads, unsigned parents, unsigned seed)
{
    Run *run = run_new(threads);

    while (run->parents < parents) {
        run_open(run, image_path, 0, 80);
        run_workers(run, seed++, test_ops / 4);
        blk_unref(run->blk);
        run_stack(run);
    }
    run->compacts = true;
    run_open(run, image_path, 0, 80);
    run_workers(run, seed, test_ops);
    g_assert_cmpint(run->compactions, >, 0);
    g_assert_cmpint(blk_flush(run->blk), ==, 0);
    copy_image();
    check_image(run->blk, run->model, false);
    blk_unref(run->blk);
    check_closed(image_path, run->model, false);
    check_closed(crash_path, run->model, true);
    run_end(run);
}

static bool can_do_threads(void)
{
#if VHDX_MULTI_THREADED
    return true;
#else
    g_test_skip("this QEMU's block layer lets only one thread at a time use "
                "a node (AioContext lock)");
    return false;
#endif
}

static void test_one_thread(void)
{
    run_all(false, 1, 8);
}

static void test_one_thread_full(void)
{
    run_full(false, 2, 0);
}

static void test_one_thread_odd(void)
{
    run_full(false, 7, ODD);
}

static void test_one_thread_chain(void)
{
    run_chain(false, 2, 9, 80);
}

static void test_one_thread_compacted(void)
{
    run_compacted(false, 0, 40);
}

static void test_compacted(void)
{
    if (can_do_threads()) {
        run_compacted(true, 0, 41);
    }
}

static void test_chain_compacted(void)
{
    if (can_do_threads()) {
        run_compacted(true, 1, 42);
    }
}

static void test_small_cache(void)
{
    if (can_do_threads()) {
        run_all(true, 3, 8);
    }
}

static void test_middle_cache(void)
{
    if (can_do_threads()) {
        run_all(true, 4, 80);
    }
}

static void test_large_cache(void)
{
    if (can_do_threads()) {
        run_all(true, 5, 8192);
    }
}

static void test_full(void)
{
    if (can_do_threads()) {
        run_full(true, 6, 0);
    }
}

static void test_odd(void)
{
    if (can_do_threads()) {
        run_full(true, 8, ODD);
    }
}

static void test_chain(void)
{
    if (can_do_threads()) {
        run_chain(true, 2, 20, 80);
    }
}

static void test_chain_small_cache(void)
{
    if (can_do_threads()) {
        run_chain(true, 1, 30, 16);
    }
}

/* -- An overlay is closed while a thread begins to change its parent -- */

#define OVERLAYS        8

static void coroutine_fn overlay_write(void *opaque)
{
    Worker *w = opaque;
    static const uint8_t buf[SECTOR];
    int ret = blk_co_pwrite(w->run->blk, 0, sizeof(buf), buf, 0);

    check_ret(w, ret);
    qatomic_dec(&w->run->running);
    aio_wait_kick();
}

static BlockDriverState *overlay_open(const char *path, const char *parent)
{
    QDict *options = qdict_new();

    qdict_put_str(options, "driver", "vhdx");
    qdict_put_str(options, "backing", parent);
    return bdrv_open(path, NULL, options, 0, &error_abort);
}

static void run_overlay_closed(void)
{
    Run *run = run_new(true);
    Worker worker = { .run = run };
    g_autofree char *path = NULL;

    run_stack(run);
    path = parent_path(0);
    for (int round = 0; round < 10; round++) {
        BlockDriverState *overlays[OVERLAYS];

        /* It fits no more once the parent was changed. */
        bdrv_img_create(image_path, "vhdx", path, "vhdx", NULL, UINT64_MAX,
                        BDRV_O_RDWR, true, &error_abort);
        run_open(run, path, 0, 80);
        for (int i = 0; i < OVERLAYS; i++) {
            overlays[i] = overlay_open(image_path,
                                       bdrv_get_node_name(blk_bs(run->blk)));
        }
        qatomic_set(&run->running, 1);
        aio_co_enter(iothread_get_aio_context(run->threads[0]),
                     qemu_coroutine_create(overlay_write, &worker));
        for (int i = 0; i < OVERLAYS; i++) {
            bdrv_unref(overlays[i]);
        }
        AIO_WAIT_WHILE_UNLOCKED(NULL, qatomic_read(&run->running));
        blk_unref(run->blk);
    }
    run_end(run);
}

static void test_overlay_closed(void)
{
    if (can_do_threads()) {
        run_overlay_closed();
    }
}

int main(int argc, char **argv)
{
    const char *ops = getenv("VHDX_TEST_OPS");
    const char *seed = getenv("VHDX_TEST_SEED");
    int ret;

    g_test_init(&argc, &argv, NULL);
    bdrv_init();
    qemu_init_main_loop(&error_abort);
    if (ops) {
        test_ops = MAX(4, atoi(ops));
    }
    if (seed) {
        first_seed = 1000 * atoi(seed);
    }
    test_dir = g_dir_make_tmp("vhdx-test-XXXXXX", NULL);
    g_assert_nonnull(test_dir);
    image_path = g_build_filename(test_dir, "image.vhdx", NULL);
    crash_path = g_build_filename(test_dir, "crash.vhdx", NULL);

    g_test_add_func("/vhdx/threads/one/all", test_one_thread);
    g_test_add_func("/vhdx/threads/one/full", test_one_thread_full);
    g_test_add_func("/vhdx/threads/one/odd-length", test_one_thread_odd);
    g_test_add_func("/vhdx/threads/one/chain", test_one_thread_chain);
    g_test_add_func("/vhdx/threads/one/compacted", test_one_thread_compacted);
    g_test_add_func("/vhdx/threads/many/compacted", test_compacted);
    g_test_add_func("/vhdx/threads/many/chain-compacted",
                    test_chain_compacted);
    g_test_add_func("/vhdx/threads/many/small-cache", test_small_cache);
    g_test_add_func("/vhdx/threads/many/middle-cache", test_middle_cache);
    g_test_add_func("/vhdx/threads/many/large-cache", test_large_cache);
    g_test_add_func("/vhdx/threads/many/full", test_full);
    g_test_add_func("/vhdx/threads/many/odd-length", test_odd);
    g_test_add_func("/vhdx/threads/many/chain", test_chain);
    g_test_add_func("/vhdx/threads/many/chain-small-cache",
                    test_chain_small_cache);
    g_test_add_func("/vhdx/threads/many/overlay-closed", test_overlay_closed);
    ret = g_test_run();

    rmdir(test_dir);
    g_free(image_path);
    g_free(crash_path);
    g_free(test_dir);
    return ret;
}
