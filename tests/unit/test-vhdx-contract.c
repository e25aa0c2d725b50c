/*
 * VHDX unit tests: what functions assert
 *
 * A function that wants locks is called with them, and once without each.  The
 * latter has to end the program, and by the assertion that is meant: one of
 * another function that is called in turn will not do.  So it is with the lock
 * that must not be held, and with states that a function can't be called in;
 * test-vhdx-change.c has those of change.c.
 *
 * Each call is in a child process, with an image of its own in memory.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/alloc.h"
#include "block/vhdx/bat.h"
#include "block/vhdx/begin.h"
#include "block/vhdx/bitmap.h"
#include "block/vhdx/cache.h"
#include "block/vhdx/cache-write.h"
#include "block/vhdx/change.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/early.h"
#include "block/vhdx/file.h"
#include "block/vhdx/header.h"
#include "block/vhdx/link.h"
#include "block/vhdx/log.h"
#include "block/vhdx/mixed.h"
#include "block/vhdx/metadata.h"
#include "block/vhdx/metadata-write.h"
#include "block/vhdx/parent.h"
#include "block/vhdx/replay.h"
#include "block/vhdx/request.h"
#include "block/vhdx/ring.h"
#include "block/vhdx/space.h"
#include "block/vhdx/space-freed.h"
#include "block/vhdx/space-scan.h"
#include "vhdx-test-abort.h"
#include "vhdx-test-open.h"

#define BLOCK       MiB
#define MEMORY_MAX  (64 * MiB)

/* What a contract wants */
#define LOCK        1               /* lock is held */
#define COMMIT      2               /* commit_lock is */
#define GROW        4               /* grow_lock is */
#define NO_LOCK     8               /* lock is not */
#define VIA         16              /* another function asserts it */
#define WAITS       32              /* the call does not return */

/* -- A file in memory -- */

static uint8_t *memory;
static int64_t memory_size;

static int coroutine_fn
memory_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
              QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    qemu_iovec_from_buf(qiov, 0, memory + offset, bytes);
    return 0;
}

static int coroutine_fn
memory_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
               QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    qemu_iovec_to_buf(qiov, 0, memory + offset, bytes);
    return 0;
}

static int coroutine_fn
memory_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    return 0;
}

static int64_t coroutine_mixed_fn memory_getlength(BlockDriverState *bs)
{
    return memory_size;
}

static int coroutine_fn
memory_truncate(BlockDriverState *bs, int64_t offset, bool exact,
                PreallocMode prealloc, BdrvRequestFlags flags, Error **errp)
{
    g_assert_cmpint(offset, <=, MEMORY_MAX);
    memory_size = offset;
    return 0;
}

static int memory_open(BlockDriverState *bs, QDict *options, int flags,
                       Error **errp)
{
    bs->supported_truncate_flags = BDRV_REQ_ZERO_WRITE;
    return 0;
}

static BlockDriver bdrv_memory = {
    .format_name            = "vhdx-test-memory",
    .bdrv_open              = memory_open,
    .bdrv_co_getlength      = memory_getlength,
    .bdrv_co_preadv         = memory_preadv,
    .bdrv_co_pwritev        = memory_pwritev,
    .bdrv_co_pdiscard       = memory_pdiscard,
    .bdrv_co_truncate       = memory_truncate,
};

/* -- What functions are called with -- */

typedef struct Env {
    BlockDriverState *bs;
    BDRVVHDXState *s;
    BDRVVHDXState other;
    CoQueue queue;
    VHDXPage *page;                 /* of the BAT */
    VHDXBitmapRuns runs;
    VHDXRequest req;                /* has begun */
    VHDXRequest new_req;            /* has not */
    VHDXExtent extent;              /* the start of block 2, at @place */
    VHDXExtent new_extent;          /* no block's yet */
    VHDXAlloc *alloc;               /* of block 2 */
    VHDXAlloc new_alloc;            /* of block 3, not entered */
    VHDXWatch watch;                /* of nothing */
    GArray *offsets;
    QEMUIOVector qiov;              /* of @buf */
    uint8_t buf[512];
    uint64_t entry;                 /* of block 0 */
    uint64_t place;
    uint64_t size;                  /* of the file */
    uint64_t offset;                /* of @page */
    uint64_t last;                  /* change */
    uint64_t count;
    int64_t n;
    bool zero;
} Env;

typedef void coroutine_fn EnvFunc(Env *e);

/* The log has a change that is not in place yet; nothing is written. */
static void coroutine_fn GRAPH_RDLOCK reading(Env *e)
{
}

/* No guest data may be changed yet. */
static void coroutine_fn GRAPH_RDLOCK metadata(Env *e)
{
    g_assert_cmpint(vhdx_begin(e->bs, VHDX_METADATA), ==, 0);
}

/* All may be changed. */
static void coroutine_fn GRAPH_RDLOCK begun(Env *e)
{
    BDRVVHDXState *s = e->s;

    g_assert_cmpint(vhdx_begin(e->bs, VHDX_DATA), ==, 0);
    qemu_co_mutex_lock(&s->grow_lock);
    g_assert_cmpint(vhdx_space_know(e->bs), ==, 0);
    qemu_co_mutex_unlock(&s->grow_lock);
    VHDX_LOCK_GUARD(s);
    g_assert_cmpint(vhdx_request_begin(s, &e->req, 0, 512), ==, 0);
    g_assert_cmpint(vhdx_alloc_extent(e->bs, 2 * BLOCK, 512, &e->extent), ==,
                    0);
    g_assert_cmpint(e->extent.allocs, ==, 1);
    e->alloc = e->extent.alloc[0];
    e->place = e->extent.file_offset;
    g_assert_cmpint(vhdx_bat_get(e->bs, 0, &e->entry), ==, 0);
    g_assert_cmpint(vhdx_cache_get(e->bs, IMAGE_BAT, &e->page), ==, 0);
    e->size = vhdx_file_size(s);
    e->last = vhdx_change_last(s);
}

/* A commit has taken the page. */
static void coroutine_fn GRAPH_RDLOCK taken(Env *e)
{
    begun(e);
    qemu_co_mutex_lock(&e->s->commit_lock);
    WITH_VHDX_LOCK_GUARD(e->s) {
        vhdx_cache_modify(e->s, e->page);
        g_assert_true(vhdx_cache_take_dirty(e->s) == e->page);
    }
    qemu_co_mutex_unlock(&e->s->commit_lock);
}

/* The page is in the log, and not in place. */
static void coroutine_fn GRAPH_RDLOCK logged(Env *e)
{
    taken(e);
    qemu_co_mutex_lock(&e->s->commit_lock);
    WITH_VHDX_LOCK_GUARD(e->s) {
        vhdx_cache_settle(e->s, e->page, true);
    }
    qemu_co_mutex_unlock(&e->s->commit_lock);
}

/* The BAT entry of a sector bitmap is in memory, though this has no parent. */
static void coroutine_fn GRAPH_RDLOCK bitmap(Env *e)
{
    begun(e);
    VHDX_LOCK_GUARD(e->s);
    while (vhdx_bat_get_bitmap(e->bs, 0, &e->count) > 0) {
        continue;
    }
}

static void coroutine_fn GRAPH_RDLOCK broken(Env *e)
{
    begun(e);
    qemu_co_mutex_lock(&e->s->commit_lock);
    vhdx_change_latch(e->bs, "a test");
    qemu_co_mutex_unlock(&e->s->commit_lock);
}

static int coroutine_fn walk_nothing(BlockDriverState *bs, uint64_t index,
                                     const uint64_t *entries, uint64_t count,
                                     void *opaque)
{
    return 0;
}

/* -- Calls in a child -- */

typedef struct Call {
    const char *name;
    unsigned locks;
    EnvFunc *prepare;
    EnvFunc *func;
    const char *what;               /* of the assertion, if that is known */

    /* For the child */
    unsigned held;
    bool begun;
} Call;

static Env env;

static void coroutine_fn call_entry(void *opaque)
{
    Call *call = opaque;
    Env *e = &env;

    GRAPH_RDLOCK_GUARD();
    call->prepare(e);
    if (call->held & COMMIT) {
        qemu_co_mutex_lock(&e->s->commit_lock);
    }
    if (call->held & GROW) {
        qemu_co_mutex_lock(&e->s->grow_lock);
    }
    if (call->held & LOCK) {
        vhdx_lock(e->s);
    }
    call->begun = true;
    call->func(e);
    /* No coroutine is to end with a lock. */
    _exit(call->locks & WAITS);
}

static void call_in_child(void *opaque)
{
    Call *call = opaque;

    qemu_coroutine_enter(qemu_coroutine_create(call_entry, call));
    while (!call->begun || !(call->locks & WAITS)) {
        aio_poll(qemu_get_aio_context(), true);
    }
}

/* -- Locks -- */

#define CONTRACT(function, locks, state, args)              \
    static void coroutine_fn GRAPH_RDLOCK                   \
    call_##function(Env *e)                                 \
    {                                                       \
        (void)function args;                                \
    }
#include "vhdx-test-contracts.h.inc"
#undef CONTRACT

static const Call contracts[] = {
#define CONTRACT(function, locks, state, args)              \
    { #function, locks, state, call_##function },
#include "vhdx-test-contracts.h.inc"
#undef CONTRACT
};

static void test_locks(gconstpointer opaque)
{
    Call call = *(const Call *)opaque;
    const unsigned needed = call.locks & (LOCK | COMMIT | GROW);
    const char *name = call.locks & VIA ? "" : call.name;

    call.held = needed;
    expect_return(call_in_child, &call);
    if (needed & LOCK) {
        call.held = needed & ~LOCK;
        expect_abort(call_in_child, &call, "vhdx_is_locked", name);
    }
    /* These two have a function of QEMU's to assert it. */
    if (needed & COMMIT) {
        call.held = needed & ~COMMIT;
        expect_abort(call_in_child, &call, "mutex->holder", "");
    }
    if (needed & GROW) {
        call.held = needed & ~GROW;
        expect_abort(call_in_child, &call, "mutex->holder", "");
    }
    if (call.locks & NO_LOCK) {
        call.held = needed | LOCK;
        expect_abort(call_in_child, &call, "!vhdx_is_locked", name);
    }
}

/* -- States -- */

static void coroutine_fn destroy_held_lock(Env *e)
{
    vhdx_lock(e->s);
    vhdx_lock_destroy(e->s);
}

static void coroutine_fn modify_without_log(Env *e)
{
    VHDXPage page = { 0 };

    VHDX_LOCK_GUARD(e->s);
    vhdx_cache_modify(e->s, &page);
}

static void coroutine_fn GRAPH_RDLOCK write_without_log(Env *e)
{
    vhdx_cache_write(e->bs, IMAGE_BAT, 512, e->buf);
}

static void coroutine_fn release_without_log(Env *e)
{
    VHDX_LOCK_GUARD(e->s);
    vhdx_space_release(e->s, IMAGE_BLOCKS, BLOCK);
}

static void coroutine_fn GRAPH_RDLOCK begin_reading(Env *e)
{
    vhdx_begin(e->bs, VHDX_READING);
}

static void coroutine_fn GRAPH_RDLOCK begin_broken(Env *e)
{
    vhdx_begin(e->bs, VHDX_BROKEN);
}

static void coroutine_fn settle_untaken(Env *e)
{
    qemu_co_mutex_lock(&e->s->commit_lock);
    VHDX_LOCK_GUARD(e->s);
    vhdx_cache_settle(e->s, e->page, true);
}

static void coroutine_fn apply_unlogged(Env *e)
{
    VHDX_LOCK_GUARD(e->s);
    vhdx_cache_applied(e->s, e->page);
}

static void coroutine_fn apply_twice(Env *e)
{
    VHDX_LOCK_GUARD(e->s);
    vhdx_cache_applied(e->s, e->page);
    vhdx_cache_applied(e->s, e->page);
}

static void coroutine_fn drop_changed(Env *e)
{
    VHDX_LOCK_GUARD(e->s);
    vhdx_cache_drop(e->s, IMAGE_BAT, 4096);
}

static void coroutine_fn drop_dirty(Env *e)
{
    WITH_VHDX_LOCK_GUARD(e->s) {
        vhdx_cache_modify(e->s, e->page);
    }
    drop_changed(e);
}

static void coroutine_fn replay_done_twice(Env *e)
{
    qemu_co_mutex_lock(&e->s->commit_lock);
    vhdx_replay_set_done(e->s);
}

static void coroutine_fn end_unbegun(Env *e)
{
    VHDX_LOCK_GUARD(e->s);
    e->new_req.ticket = vhdx_request_next(e->s);
    vhdx_request_end(e->s, &e->new_req);
}

static void coroutine_fn GRAPH_RDLOCK free_with_request(Env *e)
{
    WITH_VHDX_LOCK_GUARD(e->s) {
        vhdx_alloc_complete(e->bs, 2 * BLOCK, &e->extent, -EIO);
    }
    vhdx_request_free(e->s);
}

static void coroutine_fn free_with_alloc(Env *e)
{
    WITH_VHDX_LOCK_GUARD(e->s) {
        vhdx_request_end(e->s, &e->req);
    }
    vhdx_request_free(e->s);
}

static void coroutine_fn freeze_with_alloc(Env *e)
{
    WITH_VHDX_LOCK_GUARD(e->s) {
        vhdx_request_end(e->s, &e->req);
    }
    vhdx_request_freeze(e->s);
}

static void coroutine_fn thaw_unfrozen(Env *e)
{
    vhdx_request_thaw(e->s);
}

static void coroutine_fn add_without_ref(Env *e)
{
    e->new_alloc.refs = 0;
    VHDX_LOCK_GUARD(e->s);
    vhdx_request_alloc_add(e->s, &e->new_alloc);
}

static void coroutine_fn add_detached(Env *e)
{
    e->new_alloc.detached = true;
    VHDX_LOCK_GUARD(e->s);
    vhdx_request_alloc_add(e->s, &e->new_alloc);
}

static void coroutine_fn add_second(Env *e)
{
    e->new_alloc.index = e->alloc->index;
    VHDX_LOCK_GUARD(e->s);
    vhdx_request_alloc_add(e->s, &e->new_alloc);
}

static void coroutine_fn detach_twice(Env *e)
{
    VHDX_LOCK_GUARD(e->s);
    vhdx_request_alloc_detach(e->s, e->alloc);
    vhdx_request_alloc_detach(e->s, e->alloc);
}

static void coroutine_fn detach_unknown(Env *e)
{
    VHDX_LOCK_GUARD(e->s);
    vhdx_request_alloc_detach(e->s, &e->new_alloc);
}

static void coroutine_fn GRAPH_RDLOCK complete_without_ref(Env *e)
{
    VHDX_LOCK_GUARD(e->s);
    e->alloc->refs = 0;
    vhdx_alloc_complete(e->bs, 2 * BLOCK, &e->extent, -EIO);
}

static void coroutine_fn GRAPH_RDLOCK complete_unprepared(Env *e)
{
    VHDX_LOCK_GUARD(e->s);
    e->alloc->phase = VHDX_ALLOC_PREPARING;
    vhdx_alloc_complete(e->bs, 2 * BLOCK, &e->extent, 0);
}

static const Call wrong_states[] = {
    { "destroy-held-lock", 0, reading, destroy_held_lock, "owner" },
    { "modify-without-log", 0, reading, modify_without_log, "log_is_open" },
    { "write-without-log", 0, reading, write_without_log, "log_is_open" },
    { "release-without-log", 0, reading, release_without_log, "log_is_open" },
    { "begin-reading", 0, reading, begin_reading, "vhdx_begin" },
    { "begin-broken", 0, reading, begin_broken, "vhdx_begin" },
    { "settle-untaken", 0, begun, settle_untaken, "vhdx_cache_settle" },
    { "apply-unlogged", 0, begun, apply_unlogged, "page->logged" },
    { "apply-twice", 0, logged, apply_twice, "!page->placed" },
    { "drop-dirty", 0, begun, drop_dirty, "!page->dirty" },
    { "drop-taken", 0, taken, drop_changed, "!page->committing" },
    { "drop-logged", 0, logged, drop_changed, "!page->logged" },
    { "replay-done-twice", 0, begun, replay_done_twice, "replay_active" },
    { "end-unbegun", 0, begun, end_unbegun, "ticket" },
    { "free-with-request", 0, begun, free_with_request, "QTAILQ_EMPTY" },
    { "free-with-alloc", 0, begun, free_with_alloc, "allocs" },
    { "freeze-with-alloc", 0, begun, freeze_with_alloc, "allocs" },
    { "thaw-unfrozen", 0, begun, thaw_unfrozen, "frozen" },
    { "add-without-ref", 0, begun, add_without_ref, "alloc->refs" },
    { "add-detached", 0, begun, add_detached, "!alloc->detached" },
    { "add-second", 0, begun, add_second, "vhdx_request_alloc_add" },
    { "detach-twice", 0, begun, detach_twice, "!alloc->detached" },
    { "detach-unknown", 0, begun, detach_unknown, "vhdx_request_alloc_detach" },
    { "complete-without-ref", 0, begun, complete_without_ref, "alloc->refs" },
    { "complete-unprepared", 0, begun, complete_unprepared, "alloc->phase" },
};

static void test_state(gconstpointer opaque)
{
    Call call = *(const Call *)opaque;

    expect_abort(call_in_child, &call, call.what, "");
}

/* -- The image -- */

static BlockBackend *env_open(void)
{
    QDict *options = qdict_new();
    Image *img = image_new();
    BlockBackend *blk;

    put_page(img, 0, SEQ, 0, 0, 1);
    memory = g_malloc0(MEMORY_MAX);
    memory_size = IMAGE_SIZE;
    memcpy(memory, img->file, IMAGE_SIZE);
    image_free(img);
    qdict_put_str(options, "driver", "vhdx");
    qdict_put_str(options, "file.driver", "vhdx-test-memory");
    blk = blk_new_open(NULL, NULL, options, BDRV_O_RDWR | BDRV_O_RESIZE,
                       &error_abort);

    env.bs = blk_bs(blk);
    env.s = env.bs->opaque;
    vhdx_lock_init(&env.other);
    vhdx_change_init(&env.other);
    qemu_co_queue_init(&env.queue);
    qemu_iovec_init_buf(&env.qiov, env.buf, sizeof(env.buf));
    env.new_alloc = (VHDXAlloc) { .index = 3, .refs = 1 };
    env.offset = IMAGE_BAT;
    env.offsets = g_array_new(false, false, sizeof(uint64_t));
    return blk;
}

static void env_close(BlockBackend *blk)
{
    g_array_unref(env.offsets);
    vhdx_change_free(&env.other);
    vhdx_lock_destroy(&env.other);
    blk_unref(blk);
    g_free(memory);
}

int main(int argc, char **argv)
{
    BlockBackend *blk;
    int ret;

    g_test_init(&argc, &argv, NULL);
    bdrv_init();
    qemu_init_main_loop(&error_abort);
    bdrv_register(&bdrv_memory);
    blk = env_open();

    for (size_t i = 0; i < G_N_ELEMENTS(contracts); i++) {
        g_autofree char *path = g_strdup_printf("/vhdx/contract/locks/%s",
                                                contracts[i].name);

        g_test_add_data_func(path, &contracts[i], test_locks);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(wrong_states); i++) {
        g_autofree char *path = g_strdup_printf("/vhdx/contract/state/%s",
                                                wrong_states[i].name);

        g_test_add_data_func(path, &wrong_states[i], test_state);
    }
    ret = g_test_run();
    env_close(blk);
    return ret;
}
