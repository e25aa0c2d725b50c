/*
 * VHDX unit tests: images that are compacted while they may be used
 *
 * Those with which it can't be done, those where something in the file is as
 * seldom it is, or can't be read, and those that somebody else amends.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/amend.h"
#include "block/vhdx/chain.h"
#include "block/vhdx/commit.h"
#include "block/vhdx/dirty-store.h"
#include "block/vhdx/format.h"
#include "block/vhdx/metadata-write.h"
#include "block/vhdx/region.h"
#include "block/vhdx/request.h"
#include "vhdx-test-child.h"
#include "vhdx-test-live.h"

/* -- Images that it can't be done with -- */

static void compact_refused(BlockBackend *blk, int ret, const char *why)
{
    Compact c = { .blk = blk, .why = why };

    compact_start(&c);
    g_assert_cmpint(compact_end(&c), ==, ret);
}

static void test_inactive(void)
{
    BlockBackend *blk;

    image_with_gap(&blk);
    blk_set_force_allow_inactivate(blk);
    g_assert_cmpint(bdrv_inactivate_all(), ==, 0);
    compact_refused(blk, -EPERM, "inactive");
    bdrv_activate_all(&error_abort);
    g_assert_cmpint(compact_once(blk, false), ==, 0);
    check_fill(blk, 5 * BLOCK, BLOCK, 6);
    check_rest(blk);
}

/* Two blocks are in one place. */
static void test_overlap(void)
{
    BlockBackend *blk;
    uint64_t place = image_with_gap(&blk), bat = state(blk)->bat.offset, size;
    g_autofree uint8_t *file = NULL;
    gsize bytes;

    blk_unref(blk);
    g_assert_true(g_file_get_contents(image_path, (char **)&file, &bytes,
                                      NULL));
    g_assert_cmpuint(get_le(file + bat + 8 * 5, 8), ==, place | 6);
    put_le(file + bat + 8 * 7, place | 6, 8);
    g_assert_true(g_file_set_contents(image_path, (char *)file, bytes, NULL));
    blk = open_image();
    compact_refused(blk, -EINVAL, "Blocks overlap");
    g_assert_cmpuint(file_size(), ==, bytes);
    size = file_size();
    check_fill(blk, 5 * BLOCK, BLOCK, 6);
    check_fill(blk, 7 * BLOCK, BLOCK, 6);
    blk_unref(blk);
    g_assert_cmpuint(file_size(), ==, size);
    unlink(image_path);
}

/* A flush fails when it has begun, after which nothing is changed. */
static void test_flush_begun(void)
{
    Compact c = { 0 };
    BlockBackend *blk;

    image_with_gap(&blk);
    hold_copy(&c, blk, state(blk)->bat.offset);
    g_assert_cmpint(write_fill(blk, 7 * BLOCK, BLOCK, 8), >=, 0);
    flush_errors = 1;
    g_assert_cmpint(blk_flush(blk), ==, -EIO);
    aio_co_wake(held_read);
    g_assert_cmpint(compact_end(&c), ==, -EIO);
    check_fill(blk, 5 * BLOCK, BLOCK, 6);
    blk_unref(blk);
    blk = open_image();
    check_fill(blk, 5 * BLOCK, BLOCK, 6);
    g_assert_cmpint(compact_once(blk, false), ==, 0);
    check_fill(blk, 5 * BLOCK, BLOCK, 6);
    check_rest(blk);
}

/* -- A last block that is longer than what the disk has of it -- */

/*
 * image_with_gap(), but with a disk of @size bytes, which end in block 5, and
 * may get more
 */
static uint64_t short_with_gap(BlockBackend **blk, uint64_t size)
{
    uint64_t place;

    bdrv_img_create(image_path, "vhdx", NULL, NULL, (char *)"block_size=1M",
                    size, BDRV_O_RDWR, true, &error_abort);
    *blk = open_image();
    blk_set_perm(*blk, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE |
                 BLK_PERM_RESIZE, BLK_PERM_ALL, &error_abort);
    for (int i = 0; i < 6; i++) {
        g_assert_cmpint(write_fill(*blk, i * BLOCK,
                                   MIN(BLOCK, size - i * BLOCK), i + 1), >=, 0);
    }
    place = QEMU_ALIGN_DOWN(last_write, BLOCK);
    g_assert_cmpint(discard_wait(*blk, 0, 2 * BLOCK), >=, 0);
    g_assert_cmpint(blk_flush(*blk), ==, 0);
    return place;
}

/* What the disk does not have of it can't be zeroed: it stays, and so on. */
static void check_last_block(int (*compact)(BlockBackend *))
{
    BlockBackend *blk;
    uint64_t size = 5 * BLOCK + BLOCK / 2;

    short_with_gap(&blk, size);
    zeroing_errors = 1;
    g_assert_cmpint(compact(blk), ==, -EIO);
    g_assert_cmpuint(zeroing_errors, ==, 0);
    g_assert_cmpuint(file_size(), >=, 4 * MiB + 6 * BLOCK);
    check_fill(blk, 5 * BLOCK, BLOCK / 2, 6);
    g_assert_cmpint(compact(blk), ==, 0);
    g_assert_cmpuint(file_size(), ==, 4 * MiB + 4 * BLOCK);
    g_assert_cmpint(blk_truncate(blk, 6 * BLOCK, true, PREALLOC_MODE_OFF, 0,
                                 NULL), ==, 0);
    check_fill(blk, 5 * BLOCK, BLOCK / 2, 6);
    check_fill(blk, size, BLOCK / 2, 0);
    check_rest(blk);
}

static int compact_space(BlockBackend *blk)
{
    return compact_once(blk, false);
}

static int compact_frozen(BlockBackend *blk)
{
    return amend_image(blk, "compact=space", NULL);
}

static void test_last_block(void)
{
    check_last_block(compact_space);
    check_last_block(compact_frozen);
}

/* Returns who is held back at @held, when there is somebody. */
static Coroutine *wait_held(Coroutine **held)
{
    while (!*held) {
        aio_poll(qemu_get_aio_context(), true);
    }
    return g_steal_pointer(held);
}

/*
 * The disk ends within what is noted of a write.  That is written to when
 * another piece of its block is copied: nobody copies it twice at a time.
 */
static void test_last_unit(void)
{
    Compact c = { 0 };
    BlockBackend *blk;
    uint64_t place = short_with_gap(&blk, 5 * BLOCK + 904 * KiB);
    uint64_t written = 900 * KiB;
    Coroutine *second, *third, *last;
    int64_t before;

    /* The second piece and the third wait: no more are under way at a time. */
    hold_write_at = place - 4 * BLOCK + 512 * KiB;
    hold_copy(&c, blk, place + 256 * KiB);
    second = wait_held(&held_read);
    third = wait_held(&held_write);
    g_assert_cmpint(write_fill(blk, 5 * BLOCK + written, 4096, 77), >=, 0);
    /* The last one comes in place of one of them, and nothing of the other. */
    hold_read_at = place + written;
    aio_co_wake(third);
    last = wait_held(&held_read);
    hold_read_at = place + written;
    before = last_write;
    aio_co_wake(second);
    while (last_write == before) {
        aio_poll(qemu_get_aio_context(), true);
    }
    run_all();
    g_assert_null(held_read);
    hold_read_at = 0;
    aio_co_wake(last);
    g_assert_cmpint(compact_end(&c), ==, 0);
    check_fill(blk, 5 * BLOCK, written, 6);
    check_fill(blk, 5 * BLOCK + written, 4096, 77);
    check_rest(blk);
}

/* A page of the BAT */
#define PAGE_BYTES      4096

/* -- A BAT that is longer than what is read of it at once, or kept -- */

#define LARGE_SIZE      (256 * GiB)

/* A block whose entry is not read with those of the first ones */
#define FAR_BLOCK       (200 * KiB)

static BlockBackend *open_large(void)
{
    QDict *options = qdict_new();

    qdict_put_int(options, "cache-size", VHDX_CACHE_SIZE_MIN);
    return open_image_with(options);
}

/*
 * image_with_gap(), but such a one, in which FAR_BLOCK is all 9, and block 5
 * @fill
 */
static uint64_t large_with_gap(BlockBackend **blk, int fill)
{
    uint64_t place;

    bdrv_img_create(image_path, "vhdx", NULL, NULL, (char *)"block_size=1M",
                    LARGE_SIZE, BDRV_O_RDWR, true, &error_abort);
    *blk = open_large();
    g_assert_cmpint(write_fill(*blk, FAR_BLOCK * BLOCK, BLOCK, 9), >=, 0);
    for (int i = 0; i < 6; i++) {
        g_assert_cmpint(write_fill(*blk, i * BLOCK, BLOCK, i < 5 ? i + 1 :
                                   fill), >=, 0);
    }
    place = QEMU_ALIGN_DOWN(last_write, BLOCK);
    g_assert_cmpint(discard_wait(*blk, 0, 2 * BLOCK), >=, 0);
    /* No page of the BAT has to stay in memory for the log. */
    blk_unref(*blk);
    *blk = open_large();
    return place;
}

/* It has so many blocks, and nothing else between them or behind. */
static void check_large(BlockBackend *blk, unsigned blocks)
{
    check_fill(blk, FAR_BLOCK * BLOCK, BLOCK, 9);
    g_assert_cmpuint(file_size(), ==, 3 * MiB + state(blk)->bat.length +
                     blocks * BLOCK);
    check_rest(blk);
}

/*
 * The BAT can't be read, each of the times that this is done: what was taken
 * for blocks that were to move is free again.
 */
static void test_bat_unreadable(void)
{
    unsigned errors = 0;

    do {
        BlockBackend *blk;
        int ret;

        large_with_gap(&blk, 6);
        fail_read_at = state(blk)->bat.offset + FAR_BLOCK * 8;
        good_reads = errors;
        ret = compact_once(blk, false);
        if (fail_read_at) {
            /* It has been read less often. */
            g_assert_cmpint(ret, ==, 0);
            fail_read_at = good_reads = 0;
            errors |= 1u << 31;
        } else {
            g_assert_cmpint(ret, ==, -EIO);
            errors++;
            g_assert_cmpint(compact_once(blk, false), ==, 0);
        }
        check_fill(blk, 5 * BLOCK, BLOCK, 6);
        check_large(blk, 5);
    } while (!(errors & (1u << 31)));
    g_assert_cmpuint(errors & ~(1u << 31), >=, 3);
}

/* Let no page of the BAT be in memory that has not been read just now. */
static void forget_pages(BlockBackend *blk)
{
    unsigned pages = 2 * VHDX_CACHE_SIZE_MIN / PAGE_BYTES;

    for (unsigned i = 1; i <= pages; i++) {
        check_fill(blk, i * (PAGE_BYTES / 8) * BLOCK, 512, 0);
    }
}

/* The entry of a block of zeros can't be read when it is to change. */
static void test_drop_unreadable(void)
{
    Compact c = { .zeroes = true };
    BlockBackend *blk;
    uint64_t place = large_with_gap(&blk, 0);

    hold_copy(&c, blk, place + 900 * KiB);
    c.cancel_at = c.batches + 1;
    forget_pages(blk);
    fail_read_at = state(blk)->bat.offset;
    aio_co_wake(held_read);
    g_assert_cmpint(compact_end(&c), ==, -EIO);
    g_assert_cmpuint(fail_read_at, ==, 0);
    check_fill(blk, 5 * BLOCK, BLOCK, 0);
    g_assert_cmpint(compact_once(blk, true), ==, 0);
    check_fill(blk, 5 * BLOCK, BLOCK, 0);
    check_large(blk, 4);
}

/* The disk needs little of it now, but requests would wait for its end. */
static void test_long_bat(void)
{
    BlockBackend *blk;
    uint32_t length;
    uint64_t size;

    bdrv_img_create(image_path, "vhdx", NULL, NULL, (char *)"block_size=1M",
                    2 * TiB, BDRV_O_RDWR, true, &error_abort);
    blk = open_image();
    blk_set_perm(blk, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE |
                 BLK_PERM_RESIZE, BLK_PERM_ALL, &error_abort);
    for (int i = 0; i < 5; i++) {
        g_assert_cmpint(write_fill(blk, i * BLOCK, BLOCK, i + 1), >=, 0);
    }
    g_assert_cmpint(discard_wait(blk, 0, 2 * BLOCK), >=, 0);
    g_assert_cmpint(blk_truncate(blk, DISK_SIZE, true, PREALLOC_MODE_OFF, 0,
                                 NULL), ==, 0);
    length = state(blk)->bat.length;
    size = 3 * MiB + length + 3 * BLOCK;
    g_assert_cmpint(compact_once(blk, false), ==, 0);
    g_assert_cmpuint(state(blk)->bat.length, ==, length);
    g_assert_cmpuint(file_size(), ==, size);
    g_assert_cmpint(compact_frozen(blk), ==, 0);
    g_assert_cmpuint(state(blk)->bat.length, ==, MiB);
    g_assert_cmpuint(file_size(), ==, size - length + MiB);
    check_rest(blk);
}

/* -- Others that change it meanwhile -- */

/* Somebody who changes @blk */
typedef struct Changer {
    BlockBackend *blk;
    VHDXAmend amend;
    VHDXChainParent parent;
    VHDXGuid id;                    /* a disk ID */
    uint32_t length;                /* of its metadata region, or 0: as it is */
    int ret;
    bool done;
} Changer;

static void changer_start(Changer *c, CoroutineEntry *entry)
{
    qemu_coroutine_enter(qemu_coroutine_create(entry, c));
}

static int changer_end(Changer *c)
{
    while (!c->done) {
        aio_poll(qemu_get_aio_context(), true);
    }
    return c->ret;
}

/* As a job does */
static void coroutine_fn amend_entry(void *opaque)
{
    Changer *c = opaque;

    GRAPH_RDLOCK_GUARD();
    c->ret = vhdx_amend_change(blk_bs(c->blk), &c->amend, &error_abort);
    c->done = true;
}

/* As a parent does that tells its child of a change: it reserves nothing. */
static void coroutine_fn tell_entry(void *opaque)
{
    Changer *c = opaque;
    BDRVVHDXState *s = state(c->blk);
    uint8_t id[16];
    VHDXItemChange change = {
        .guid = &vhdx_item_disk_id,
        .buf = id,
        .length = sizeof(id),
        .flags = VHDX_ITEM_DISK,
    };

    vhdx_guid_encode(&c->id, id);
    GRAPH_RDLOCK_GUARD();
    qemu_co_mutex_lock(&s->commit_lock);
    c->ret = vhdx_metadata_change(blk_bs(c->blk), &change, 1, &error_abort);
    qemu_co_mutex_unlock(&s->commit_lock);
    c->done = true;
}

static void coroutine_fn region_entry(void *opaque)
{
    Changer *c = opaque;
    BDRVVHDXState *s = state(c->blk);

    GRAPH_RDLOCK_GUARD();
    vhdx_request_freeze(s);
    c->ret = vhdx_region_move_metadata(blk_bs(c->blk),
                                       c->length ?: s->metadata.length,
                                       s->metadata.length, NULL, NULL);
    vhdx_request_thaw(s);
    c->done = true;
}

/* The image has this disk ID in its file. */
static void check_disk_id(BlockBackend *blk, const VHDXGuid *id)
{
    blk_unref(blk);
    blk = open_image();
    g_assert_true(vhdx_guid_equal(&state(blk)->params.disk_id, id));
    check_fill(blk, 5 * BLOCK, BLOCK, 6);
    check_rest(blk);
}

/* Let @c do what @entry does, when @log has closed the log that is to move. */
static void change_beside(Changer *log, Changer *c, CoroutineEntry *entry)
{
    hold_write_at = VHDX_HEADER_OFFSET(0);
    changer_start(log, amend_entry);
    while (!held_write) {
        aio_poll(qemu_get_aio_context(), true);
    }
    changer_start(c, entry);
    run_all();
    g_assert_false(c->done);
    aio_co_wake(held_write);
    g_assert_cmpint(changer_end(log), ==, 0);
    g_assert_cmpint(changer_end(c), ==, 0);
}

/*
 * The log is closed, to get longer, when another job has begun to change the
 * disk ID: that opens the next one.
 */
static void test_log_moves(void)
{
    Changer log = { .amend.log_size = 2 * MiB };
    Changer id = { .amend.disk_id = vhdx_guid_new() };

    image_with_gap(&log.blk);
    id.blk = log.blk;
    change_beside(&log, &id, amend_entry);
    g_assert_cmpuint(state(log.blk)->header.log_length, ==, 2 * MiB);
    check_disk_id(log.blk, &id.amend.disk_id);
}

static void coroutine_fn dirty_entry(void *opaque)
{
    Changer *c = opaque;

    GRAPH_RDLOCK_GUARD();
    c->ret = vhdx_dirty_begin(blk_bs(c->blk));
    c->done = true;
}

/* Returns the byte at @at of the file, which becomes @byte if that is not 0. */
static int file_byte(uint64_t at, int byte)
{
    FILE *file = fopen(image_path, "r+");
    int was;

    g_assert_nonnull(file);
    g_assert_cmpint(fseek(file, at, SEEK_SET), ==, 0);
    was = fgetc(file);
    if (byte) {
        g_assert_cmpint(fseek(file, at, SEEK_SET), ==, 0);
        g_assert_cmpint(fputc(byte, file), ==, byte);
    }
    g_assert_cmpint(fclose(file), ==, 0);
    return was;
}

/* The same of a head of dirty bitmaps, which may be in the file or not. */
static void test_log_of_bitmaps(void)
{
    Changer log = { .amend.log_size = 2 * MiB }, dirty = { 0 };
    uint64_t place;

    image_with_gap(&log.blk);
    dirty.blk = log.blk;
    state(log.blk)->dirty_unsure = 100;
    place = state(log.blk)->metadata.offset + 100 * PAGE_BYTES;
    g_assert_cmpint(file_byte(place, 1), ==, 0);
    change_beside(&log, &dirty, dirty_entry);
    g_assert_cmpuint(state(log.blk)->dirty_unsure, ==, 0);
    check_is_clean(log.blk);
    blk_unref(log.blk);
    g_assert_cmpint(file_byte(place, 0), ==, 0);
    unlink(image_path);
}

static void coroutine_fn checkpoint_entry(void *opaque)
{
    Changer *c = opaque;

    GRAPH_RDLOCK_GUARD();
    c->ret = vhdx_commit_checkpoint(blk_bs(c->blk));
    c->done = true;
}

/*
 * All is in place when it is closed, which is enough for a checkpoint: nothing
 * is written after the headers that name none.
 */
static void test_log_closes(void)
{
    Changer log = { .amend.log_size = 2 * MiB }, checkpoint = { 0 };

    image_with_gap(&log.blk);
    checkpoint.blk = log.blk;
    change_beside(&log, &checkpoint, checkpoint_entry);
    g_assert_cmpint(last_write, <=, VHDX_HEADER_OFFSET(1));
    check_fill(log.blk, 5 * BLOCK, BLOCK, 6);
    check_rest(log.blk);
}

static void coroutine_fn empty_entry(void *opaque)
{
    Changer *c = opaque;

    GRAPH_RDLOCK_GUARD();
    c->ret = vhdx_chain_make_empty(blk_bs(c->blk), NULL, &error_abort);
    c->done = true;
}

static void coroutine_fn parent_entry(void *opaque)
{
    Changer *c = opaque;

    GRAPH_RDLOCK_GUARD();
    c->ret = vhdx_chain_change_parent(blk_bs(c->blk), &c->parent, &error_abort);
    c->done = true;
}

/* A child with some blocks, over zeros */
static BlockBackend *open_child(void)
{
    BlockBackend *blk;

    bdrv_img_create(image_path, "vhdx", NULL, NULL,
                    (char *)"block_size=1M,block_state_zero=off", DISK_SIZE,
                    BDRV_O_RDWR, true, &error_abort);
    child_of_file(image_path);
    blk = open_over_zeros(DISK_SIZE);
    for (int i = 0; i < 4; i++) {
        g_assert_cmpint(write_fill(blk, i * BLOCK, 4096, 0), >=, 0);
    }
    return blk;
}

/* The log of a child moves when @entry is about to change the chain. */
static void check_log_of_child(CoroutineEntry *entry, const char *parent)
{
    Changer log = { .amend.log_size = 2 * MiB };
    Changer chain = { .parent.name = parent };

    log.blk = chain.blk = open_child();
    change_beside(&log, &chain, entry);
    check_fill(log.blk, 0, 4 * BLOCK, 0);
    check_is_clean(log.blk);
    blk_unref(log.blk);
    unlink(image_path);
}

static void test_log_of_child(void)
{
    g_autofree char *other = g_strdup_printf("%s.other", image_path);

    check_log_of_child(empty_entry, NULL);
    /* It is made one without a parent, */
    check_log_of_child(parent_entry, NULL);
    /* and gets another one. */
    bdrv_img_create(other, "vhdx", NULL, NULL, NULL, DISK_SIZE, BDRV_O_RDWR,
                    true, &error_abort);
    check_log_of_child(parent_entry, other);
    unlink(other);
}

/* What is changed while the metadata region is copied is not lost. */
static void test_region_moves(void)
{
    Changer region = { 0 }, tell = { .id = vhdx_guid_new() };
    uint64_t place;

    image_with_gap(&region.blk);
    tell.blk = region.blk;
    place = state(region.blk)->metadata.offset;
    hold_read_at = place;
    hold_read_bytes = MiB;
    changer_start(&region, region_entry);
    while (!held_read) {
        g_assert_false(region.done);
        aio_poll(qemu_get_aio_context(), true);
    }
    changer_start(&tell, tell_entry);
    run_all();
    g_assert_false(tell.done);
    aio_co_wake(held_read);
    g_assert_cmpint(changer_end(&region), ==, 0);
    g_assert_cmpint(changer_end(&tell), ==, 0);
    g_assert_cmpuint(state(region.blk)->metadata.offset, !=, place);
    check_disk_id(region.blk, &tell.id);
}

/* -- A child whose log or region moves while its parent changes -- */

/* Both are used by somebody. */
typedef struct Chain {
    char *path;                     /* of the parent */
    BlockBackend *parent;
    BlockBackend *child;
} Chain;

static void chain_open(Chain *c)
{
    QDict *options = qdict_new(), *child = qdict_new();

    qdict_put_str(options, "driver", "vhdx");
    qdict_put_str(options, "node-name", "parent");
    qdict_put_str(options, "file.driver", "blkdebug");
    qdict_put_str(options, "file.image.driver", "file");
    qdict_put_str(options, "file.image.filename", c->path);
    c->parent = blk_new_open(NULL, NULL, options, BDRV_O_RDWR, &error_abort);
    qdict_put_str(child, "backing", "parent");
    c->child = open_image_with(child);
}

/* A child that has been written to, over an empty parent */
static void chain_create(Chain *c)
{
    c->path = g_strdup_printf("%s.parent", image_path);
    bdrv_img_create(c->path, "vhdx", NULL, NULL, (char *)"block_size=1M",
                    DISK_SIZE, BDRV_O_RDWR, true, &error_abort);
    bdrv_img_create(image_path, "vhdx", c->path, "vhdx",
                    (char *)"block_size=1M,block_state_zero=off", DISK_SIZE,
                    BDRV_O_RDWR, true, &error_abort);
    chain_open(c);
    g_assert_cmpint(write_fill(c->child, 0, 4096, 1), >=, 0);
}

static void chain_close(Chain *c)
{
    blk_unref(c->child);
    blk_unref(c->parent);
}

/* The child names the parent's content as it is, and nothing else. */
static void check_linked(Chain *c)
{
    const VHDXLocator *loc = state(c->child)->locator;

    g_assert_true(vhdx_guid_equal(&loc->linkage,
                                  &state(c->parent)->header.data_write_guid));
    g_assert_true(vhdx_guid_is_nil(&loc->linkage2));
}

/* So it is in the files, too, and the parent has @fill in a page of block 1. */
static void chain_end(Chain *c, int fill)
{
    check_linked(c);
    chain_close(c);
    chain_open(c);
    check_linked(c);
    check_fill(c->child, 0, 4096, 1);
    check_fill(c->child, BLOCK, 4096, fill);
    check_is_clean(c->child);
    chain_close(c);
    unlink(c->path);
    unlink(image_path);
    g_free(c->path);
}

/* Let the next @event of the parent's file wait: "held" for blkdebug. */
static void hold_parent(Chain *c, const char *event)
{
    g_assert_cmpint(bdrv_debug_breakpoint(blk_bs(c->parent), event, "held"),
                    ==, 0);
}

static void wait_parent(Chain *c)
{
    while (!bdrv_debug_is_suspended(blk_bs(c->parent), "held")) {
        aio_poll(qemu_get_aio_context(), true);
    }
}

/* The child has been told what the parent gets, when its log moves. */
static void test_log_of_told(void)
{
    Changer log = { .amend.log_size = 2 * MiB };
    Chain c;
    Write *w;

    chain_create(&c);
    hold_parent(&c, "reftable_update");
    w = start_write(c.parent, BLOCK, 4096, 2);
    wait_parent(&c);
    g_assert_false(vhdx_guid_is_nil(&state(c.child)->locator->linkage2));
    log.blk = c.child;
    changer_start(&log, amend_entry);
    g_assert_cmpint(changer_end(&log), ==, 0);
    bdrv_debug_resume(blk_bs(c.parent), "held");
    g_assert_cmpint(end_write(w), >=, 0);
    chain_end(&c, 2);
}

/* The child's region is being copied when it is told. */
static void test_region_of_told(void)
{
    Changer region = { 0 };
    Chain c;
    Write *w;

    chain_create(&c);
    region.blk = c.child;
    hold_read_at = state(c.child)->metadata.offset;
    hold_read_bytes = MiB;
    changer_start(&region, region_entry);
    while (!held_read) {
        g_assert_false(region.done);
        aio_poll(qemu_get_aio_context(), true);
    }
    w = start_write(c.parent, BLOCK, 4096, 2);
    run_all();
    aio_co_wake(held_read);
    g_assert_cmpint(changer_end(&region), ==, 0);
    g_assert_cmpint(end_write(w), >=, 0);
    chain_end(&c, 2);
}

/* The parent is being flushed, for the child to name it, when the log moves. */
static void test_log_of_named(void)
{
    Changer log = { .amend.log_size = 2 * MiB }, name = { 0 };
    Chain c;

    chain_create(&c);
    g_assert_cmpint(write_fill(c.parent, BLOCK, 4096, 2), >=, 0);
    hold_parent(&c, "pwritev");
    log.blk = name.blk = c.child;
    name.parent.name = c.path;
    changer_start(&name, parent_entry);
    wait_parent(&c);
    changer_start(&log, amend_entry);
    run_all();
    bdrv_debug_resume(blk_bs(c.parent), "held");
    g_assert_cmpint(changer_end(&name), ==, 0);
    g_assert_cmpint(changer_end(&log), ==, 0);
    chain_end(&c, 2);
}

/* -- A host that is full -- */

/*
 * It has room for one block, and not for as many as move at once.
 */
static void check_full(int (*compact)(BlockBackend *))
{
    struct stat st;
    BlockBackend *blk;

    create_image();
    blk = open_image();
    for (int i = 0; i < 16; i++) {
        g_assert_cmpint(write_fill(blk, i * BLOCK, BLOCK, i + 1), >=, 0);
    }
    g_assert_cmpint(blk_flush(blk), ==, 0);
    space_limit = INT64_MAX;
    g_assert_cmpint(discard_wait(blk, 0, 2 * BLOCK), >=, 0);
    g_assert_cmpint(discard_wait(blk, 5 * BLOCK, 6 * BLOCK), >=, 0);
    /* The second gives back what the first has made stable. */
    for (int i = 0; i < 2; i++) {
        g_assert_cmpint(blk_flush(blk), ==, 0);
    }
    g_assert_cmpint(stat(image_path, &st), ==, 0);
    space_limit = st.st_blocks * 512 + BLOCK + BLOCK / 2;
    g_assert_cmpint(compact(blk), ==, 0);
    space_limit = 0;
    g_assert_cmpuint(file_size(), ==, 4 * MiB + 8 * BLOCK);
    check_fill(blk, 5 * BLOCK, 6 * BLOCK, 0);
    for (int i = 11; i < 16; i++) {
        check_fill(blk, i * BLOCK, BLOCK, i + 1);
    }
    check_rest(blk);
}

static void test_full(void)
{
    check_full(compact_space);
    check_full(compact_frozen);
}

/* -- The log and a region one behind the other -- */

/*
 * An image without a gap but one of 1 MiB, before the log of 2 MiB, which the
 * metadata region of 2 MiB follows, to the end of the file.
 */
static void image_with_row(BlockBackend **blk)
{
    Changer c = { .amend.log_size = 2 * MiB, .length = 2 * MiB };
    BDRVVHDXState *s;

    create_image();
    c.blk = *blk = open_image();
    s = state(*blk);
    /* The last of them is to be the gap: the log comes after it. */
    for (int i = 2; i < 6; i++) {
        g_assert_cmpint(write_fill(*blk, i * BLOCK, BLOCK, i + 1), >=, 0);
    }
    changer_start(&c, amend_entry);
    g_assert_cmpint(changer_end(&c), ==, 0);
    c.done = false;
    changer_start(&c, region_entry);
    g_assert_cmpint(changer_end(&c), ==, 0);
    /* What the two had before is for blocks. */
    g_assert_cmpint(blk_flush(*blk), ==, 0);
    for (int i = 6; i < 8; i++) {
        g_assert_cmpint(write_fill(*blk, i * BLOCK, BLOCK, i + 1), >=, 0);
    }
    g_assert_cmpint(discard_wait(*blk, 5 * BLOCK, BLOCK), >=, 0);
    g_assert_cmpint(blk_flush(*blk), ==, 0);
    g_assert_cmpuint(s->header.log_offset, ==, 8 * MiB);
    g_assert_cmpuint(s->metadata.offset, ==, 10 * MiB);
}

/*
 * Compacting such an image leaves a file of @size bytes, where it can have
 * @most, or as many as it likes if that is 0.
 */
static void check_row(int (*compact)(BlockBackend *), uint64_t most,
                      uint64_t size)
{
    BlockBackend *blk;

    image_with_row(&blk);
    blk_unref(blk);
    blk = open_image();
    length_limit = most;
    g_assert_cmpint(compact(blk), ==, 0);
    length_limit = 0;
    g_assert_cmpuint(file_size(), ==, size);
    for (int i = 6; i < 8; i++) {
        check_fill(blk, i * BLOCK, BLOCK, i + 1);
    }
    check_fill(blk, 5 * BLOCK, BLOCK, 0);
    check_rest(blk);
}

/* The log would gain nothing by itself, but is in the region's way. */
static void test_parts_in_row(void)
{
    check_row(compact_space, 0, 11 * MiB);
    check_row(compact_frozen, 0, 11 * MiB);
    /* It can't go up first, which is no error. */
    check_row(compact_space, 12 * MiB, 12 * MiB);
    check_row(compact_frozen, 12 * MiB, 12 * MiB);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    test_fail_init();

    g_test_add_func("/vhdx/live-images/inactive", test_inactive);
    g_test_add_func("/vhdx/live-images/overlap", test_overlap);
    g_test_add_func("/vhdx/live-images/flush-begun", test_flush_begun);
    g_test_add_func("/vhdx/live-images/last-block", test_last_block);
    g_test_add_func("/vhdx/live-images/last-unit", test_last_unit);
    g_test_add_func("/vhdx/live-images/bat-unreadable", test_bat_unreadable);
    g_test_add_func("/vhdx/live-images/drop-unreadable", test_drop_unreadable);
    g_test_add_func("/vhdx/live-images/long-bat", test_long_bat);
    g_test_add_func("/vhdx/live-images/log-moves", test_log_moves);
    g_test_add_func("/vhdx/live-images/log-of-bitmaps", test_log_of_bitmaps);
    g_test_add_func("/vhdx/live-images/log-closes", test_log_closes);
    g_test_add_func("/vhdx/live-images/log-of-child", test_log_of_child);
    g_test_add_func("/vhdx/live-images/region-moves", test_region_moves);
    g_test_add_func("/vhdx/live-images/log-of-told", test_log_of_told);
    g_test_add_func("/vhdx/live-images/region-of-told", test_region_of_told);
    g_test_add_func("/vhdx/live-images/log-of-named", test_log_of_named);
    g_test_add_func("/vhdx/live-images/full", test_full);
    g_test_add_func("/vhdx/live-images/parts-in-row", test_parts_in_row);
    ret = g_test_run();

    test_fail_finish();
    return ret;
}
