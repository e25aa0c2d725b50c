/*
 * VHDX unit tests: every request to the file fails once
 *
 * What is done to an image, from opening to closing it, is done again and again
 * over files in memory.  Each time another request to one of the files fails:
 * the first one, the second one and so on, until none is left.  It fails in one
 * of several ways.  Afterwards the image opens, its check finds no error, and
 * what a flush has made sure of is there; it can be used on.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/units.h"
#include "block/dirty-bitmap.h"
#include "block/vhdx/amend.h"
#include "block/vhdx/dirty-load.h"
#include "vhdx-test-runs.h"

/* -- What is done -- */

static void open_and_read(void)
{
    if (begin()) {
        look();
    }
}

static void open_to_read(void)
{
    image = image_open(0, NULL);
    if (image) {
        look();
    }
}

static void write_once(void)
{
    if (begin()) {
        disk_write(image, PER_BLOCK + 1, 2, 20);
        look();
    }
}

/* Each kind of request, in several commits */
static void write_much(void)
{
    if (!begin()) {
        return;
    }
    disk_write(image, PER_BLOCK + 1, 2, 20);
    disk_write(image, 9 * PER_BLOCK + 1, 2, 21);
    disk_flush(image);
    look();
    disk_write(image, 10 * PER_BLOCK, 3 * PER_BLOCK, 22);
    disk_discard(image, 3 * PER_BLOCK, 2 * PER_BLOCK);
    disk_flush(image);
    disk_write_zeroes(image, 2 * PER_BLOCK, PER_BLOCK, BDRV_REQ_MAY_UNMAP);
    disk_write_zeroes(image, 14 * PER_BLOCK + 4, 3, 0);
    disk_write(image, 3 * PER_BLOCK, PER_BLOCK + 5, 23);
    disk_flush(image);
    look();
    disk_write(image, 15 * PER_BLOCK, 1, 24);
}

/* The disk gets longer, then ends in a block with data, then gets longer. */
static void resize(void)
{
    if (!begin()) {
        return;
    }
    disk_truncate(image, DISK_SIZE + 4 * BLOCK);
    look();
    if (blk_getlength(image) > DISK_SIZE) {
        disk_write(image, 17 * PER_BLOCK, PER_BLOCK, 25);
        disk_flush(image);
        look();
    }
    disk_write(image, 10 * PER_BLOCK, 2, 26);
    disk_truncate(image, 10 * BLOCK + CELL);
    look();
    disk_truncate(image, DISK_SIZE);
    look();
}

/* The same of a fixed image, each block of which has a place all the while. */
static void resize_fixed(void)
{
    BdrvCheckResult result = { 0 };

    resize();
    fault.armed = false;
    if (image && bdrv_check(blk_bs(image), &result, 0) == 0) {
        g_assert_cmpuint(result.bfi.allocated_clusters, ==,
                         DIV_ROUND_UP(blk_getlength(image), BLOCK));
    }
    fault.armed = true;
}

/*
 * An image whose free space holds old data is made fixed.  If that fails for
 * want of space, with the one request that fails, all is as it was, unless it
 * is a flush: then no more is written.
 */
static void make_fixed(void)
{
    unsigned before, after;
    bool fixed;

    if (!begin()) {
        return;
    }
    disk_discard(image, 0, PER_BLOCK);
    disk_flush(image);
    fault.armed = false;
    before = count_places();
    fault.armed = true;
    fixed = amend("subformat=fixed");
    look();
    if ((fault.way == NO_SPACE || !fault.hit) &&
        !vhdx_change_is_broken(blk_bs(image)->opaque)) {
        fault.armed = false;
        after = count_places();
        fault.armed = true;
        g_assert_cmpuint(after, ==, fixed ? DISK_SIZE / BLOCK : before);
    }
    disk_write(image, 9 * PER_BLOCK + 2, 2, 20);
    disk_discard(image, 4 * PER_BLOCK, PER_BLOCK);
    disk_flush(image);
    look();
}

static int coroutine_fn GRAPH_RDLOCK
go_on(BlockDriverState *bs, void *opaque)
{
    return 0;
}

static bool coroutine_fn is_never_enough(BlockDriverState *bs, void *opaque)
{
    return false;
}

static void no_progress(BlockDriverState *bs, int64_t offset, int64_t total,
                        void *opaque)
{
}

static void coroutine_fn fix_entry(void *opaque)
{
    VHDXCompactUser user = {
        .pause = go_on,
        .move = { .stop = is_never_enough },
    };
    VHDXAmend a = {
        .fix = true,
        .status_cb = no_progress,
        .user = &user,
    };
    Error *err = NULL;
    int *ret = opaque;

    GRAPH_RDLOCK_GUARD();
    *ret = vhdx_amend_change(blk_bs(image), &a, &err);
    g_assert_cmpint(*ret < 0, ==, err != NULL);
    error_free(err);
}

/* The same while requests may go on: a failure may leave blocks with places. */
static void make_fixed_online(void)
{
    int ret = -EINPROGRESS;

    if (!begin()) {
        return;
    }
    disk_discard(image, 0, PER_BLOCK);
    disk_flush(image);
    qemu_coroutine_enter(qemu_coroutine_create(fix_entry, &ret));
    while (ret == -EINPROGRESS) {
        aio_poll(qemu_get_aio_context(), true);
    }
    look();
    if (ret == 0) {
        fault.armed = false;
        g_assert_cmpuint(count_places(), ==, DISK_SIZE / BLOCK);
        fault.armed = true;
    }
    disk_write(image, 9 * PER_BLOCK + 2, 2, 20);
    disk_flush(image);
    look();
}

/*
 * The same of one with a block that has kept a place.  If that fails, and can
 * be done later, the file is no longer than it takes.
 */
static void make_fixed_kept(void)
{
    if (!begin()) {
        return;
    }
    amend("subformat=fixed");
    look();
    if (fault.way == DEAD || vhdx_change_is_broken(blk_bs(image)->opaque)) {
        return;
    }
    fault.armed = false;
    g_assert_true(amend("subformat=fixed"));
    g_assert_cmpuint(count_places(), ==, DISK_SIZE / BLOCK);
    look();
    end();
    g_assert_cmpuint(files[IMAGE].size, ==, 4 * MiB + DISK_SIZE);
}

static void make_dynamic(void)
{
    if (!begin()) {
        return;
    }
    amend("subformat=dynamic");
    disk_discard(image, 4 * PER_BLOCK, PER_BLOCK);
    disk_flush(image);
    look();
}

/* The first change since the image was opened */
static void amend_at_once(void)
{
    if (begin()) {
        amend("physical_sector_size=512");
        look();
    }
}

/* Whether bitmaps could not be read, which may be whole */
static bool bitmaps_unread;

static void repair(void)
{
    BdrvCheckResult result = { 0 };
    VHDXDirtyBitmaps *d;
    int ret;

    if (begin()) {
        d = ((BDRVVHDXState *)blk_bs(image)->opaque)->dirty;
        bitmaps_unread = d && d->error && d->why != -EINVAL;
        ret = bdrv_check(blk_bs(image), &result,
                         BDRV_FIX_ERRORS | BDRV_FIX_LEAKS);
        /* That is told, and all else is looked at. */
        g_assert_true(!bitmaps_unread || fault.way == DEAD ||
                      (ret == 0 && result.check_errors));
        look();
    }
}

/* Opened in another way, and written to before and after that */
static void reopen(void)
{
    QDict *options = qdict_new();

    if (!begin()) {
        qobject_unref(options);
        return;
    }
    disk_write(image, 9 * PER_BLOCK, PER_BLOCK, 20);
    qdict_put_int(options, "cache-size", 2 * MiB);
    if (bdrv_reopen(blk_bs(image), options, true, NULL) == 0) {
        /* That makes stable what there is. */
        disk_is_stable();
    }
    look();
    disk_write(image, 10 * PER_BLOCK, PER_BLOCK, 21);
    disk_flush(image);
    look();
}

static void commit(void)
{
    if (begin()) {
        bdrv_commit(blk_bs(image));
        look();
        disk_write(image, 5 * PER_BLOCK, 4, 20);
        disk_flush(image);
        look();
    }
}

/* The child becomes an image without a parent. */
static void flatten(void)
{
    if (!begin()) {
        return;
    }
    bdrv_change_backing_file(blk_bs(image), NULL, NULL, false);
    look();
    disk_write(image, 5 * PER_BLOCK + 1, 2, 21);
    disk_flush(image);
    look();
}

/* -- Dirty bitmaps -- */

static BdrvDirtyBitmap *bitmap_add(const char *name)
{
    BlockDriverState *bs = blk_bs(image);
    BdrvDirtyBitmap *bitmap;

    if (!bdrv_can_store_new_dirty_bitmap(bs, name, CELL, NULL)) {
        return NULL;
    }
    bitmap = bdrv_create_dirty_bitmap(bs, CELL, name, &error_abort);
    bdrv_dirty_bitmap_set_persistence(bitmap, true);
    return bitmap;
}

/* An image with "b", which records writes, and "c", which has one */
static void make_image_with_bitmaps(void)
{
    BdrvDirtyBitmap *bitmap;

    make_image();
    g_assert_nonnull(bitmap_add("b"));
    bitmap = bitmap_add("c");
    g_assert_nonnull(bitmap);
    bdrv_set_dirty_bitmap(bitmap, 3 * BLOCK, CELL);
    bdrv_disable_dirty_bitmap(bitmap);
}

/* The first bitmap, for which the metadata region gets longer elsewhere */
static void first_bitmap(void)
{
    if (begin()) {
        bitmap_add("b");
        disk_write(image, PER_BLOCK + 1, 2, 20);
        look();
    }
}

/* What the image has is loaded and stored, and each command in between. */
static void use_bitmaps(void)
{
    BdrvDirtyBitmap *b, *c;

    if (!begin()) {
        return;
    }
    disk_write(image, PER_BLOCK + 1, 2, 20);
    b = bdrv_find_dirty_bitmap(blk_bs(image), "b");
    c = bdrv_find_dirty_bitmap(blk_bs(image), "c");
    if (b && c && !bdrv_dirty_bitmap_inconsistent(b) &&
        !bdrv_dirty_bitmap_inconsistent(c)) {
        bdrv_merge_dirty_bitmap(b, c, NULL, NULL);
    }
    if (c && bdrv_remove_persistent_dirty_bitmap(blk_bs(image), "c",
                                                 NULL) == 0) {
        bdrv_release_dirty_bitmap(c);
    }
    bitmap_add("a");
    disk_flush(image);
    look();
}

/* If "b" counts it has what is new.  It counts where nothing has failed. */
static void bitmap_check(bool hit)
{
    BdrvDirtyBitmap *b = bdrv_find_dirty_bitmap(blk_bs(image), "b");
    uint64_t at = (PER_BLOCK + 1) * CELL;
    uint8_t now;

    g_assert_true(hit || (b && !bdrv_dirty_bitmap_inconsistent(b)));
    /* A repair drops none for an error of reading them. */
    g_assert_true(b || !bitmaps_unread);
    bitmaps_unread = false;
    g_assert_cmpint(blk_pread(image, at, 1, &now, 0), >=, 0);
    if (b && !bdrv_dirty_bitmap_inconsistent(b) && now == 20) {
        g_assert_true(bdrv_dirty_bitmap_get(b, at));
    }
}

/* -- A new image -- */

/* Make an image with @prealloc on the empty node; returns whether it worked. */
static bool create_on_node(PreallocMode prealloc)
{
    QDict *options = qdict_new();
    BlockdevRef file = {
        .type = QTYPE_QSTRING,
        .u.reference = (char *)"file",
    };
    BlockdevCreateOptions create = {
        .driver = BLOCKDEV_DRIVER_VHDX,
        .u.vhdx = {
            .file = &file,
            .has_size = true,
            .size = DISK_SIZE,
            .has_block_size = true,
            .block_size = BLOCK,
            .has_subformat = is_fixed,
            .subformat = BLOCKDEV_VHDX_SUBFORMAT_FIXED,
            .has_preallocation = true,
            .preallocation = prealloc,
        },
    };
    BlockDriverState *bs;
    Error *err = NULL;
    int ret;

    qdict_put_str(options, "driver", "vhdx-test-memory");
    qdict_put_str(options, "node-name", "file");
    qdict_put_int(options, "number", IMAGE);
    bs = bdrv_open(NULL, NULL, options, BDRV_O_RDWR | BDRV_O_RESIZE, NULL);
    if (!bs) {
        return false;
    }
    ret = blockdev_create(&create, &err);
    g_assert_cmpint(ret < 0, ==, err != NULL);
    error_free(err);
    bdrv_unref(bs);
    return ret >= 0;
}

static bool image_opens(void)
{
    image = image_open(0, NULL);
    return image;
}

/*
 * Make an image, with a request that fails.  What that leaves is no image at
 * all, or a good one; it can be made then.
 */
static void create_with_fault(unsigned at, Way way, PreallocMode prealloc)
{
    bool made;

    run_begin(at, way);
    made = create_on_node(prealloc);
    fault.armed = false;
    g_assert_true(made || fault.hit);
    if (image_opens()) {
        disk_check(image, false, false);
        check_is_sound();
        end();
    } else {
        g_assert_false(made);
        g_assert_true(create_on_node(prealloc));
        g_assert_true(image_opens());
        disk_check(image, false, false);
        end();
    }
}

static void create_each(PreallocMode prealloc)
{
    /* Where the file has something else before */
    memset(files[IMAGE].data, 0x55, MiB);
    files[IMAGE].size = MiB;
    files_keep();
    for (unsigned way = 0; way < WAYS; way++) {
        unsigned at = 0;

        do {
            create_with_fault(at++, way, prealloc);
        } while (fault.hit);
        g_assert_cmpuint(fault.calls, >=, 10);
    }
    is_fixed = false;
}

/* -- Tests -- */

static void test_create(void)
{
    disk_reset();
    create_each(PREALLOC_MODE_OFF);
}

static void test_create_fixed(void)
{
    disk_reset();
    is_fixed = true;
    create_each(PREALLOC_MODE_FULL);
}

/* It writes zeros where the node has no preallocation. */
static void test_create_written(void)
{
    disk_reset();
    is_fixed = no_prealloc = true;
    create_each(PREALLOC_MODE_FULL);
}

static void test_open(void)
{
    make_image();
    run_each(open_and_read, 10);
}

static void test_open_replay(void)
{
    make_image_with_log();
    run_each(open_and_read, 15);
}

static void test_open_to_read(void)
{
    make_image_with_log();
    run_each(open_to_read, 10);
}

static void test_first_write(void)
{
    make_image();
    run_each(write_once, 15);
}

static void test_requests(void)
{
    make_image();
    run_each(write_much, 50);
}

static void test_requests_replay(void)
{
    make_image_with_log();
    run_each(write_much, 50);
}

static void test_resize(void)
{
    make_image();
    run_each(resize, 50);
}

static void test_resize_fixed(void)
{
    is_fixed = true;
    make_image();
    is_fixed = false;
    run_each(resize_fixed, 50);
}

static void test_amend(void)
{
    make_image();
    run_each(amend_at_once, 10);
}

/* An image with old data in free space */
static void make_image_to_fix(void)
{
    uint64_t place = 2 * MiB;

    make_image();
    /* What block 3 leaves behind is old data in the midst of the file. */
    while (files[IMAGE].data[place] != 4) {
        place += MiB;
    }
    disk_discard(image, 3 * PER_BLOCK, PER_BLOCK);
    g_assert_cmpint(disk_flush(image), >=, 0);
    end();
    g_assert_cmpuint(place + MiB, <, files[IMAGE].size);
    memset(files[IMAGE].data + place, 0x55, MiB);
}

static void test_make_fixed(void)
{
    unsigned at = 0;

    make_image_to_fix();
    run_each(make_fixed, 50);
    /* Each of them finds no space, in any case. */
    do {
        run(make_fixed, at++, NO_SPACE);
    } while (fault.hit);
}

static void test_make_fixed_online(void)
{
    make_image_to_fix();
    run_each(make_fixed_online, 50);
}

static void test_make_fixed_kept(void)
{
    uint8_t *entry = files[IMAGE].data + 2 * MiB + 8 * 3;

    make_image();
    end();
    g_assert_cmpuint(get_le(entry, 8) & 7, ==, 6);
    /* UNMAPPED */
    put_le(entry, get_le(entry, 8) - 3, 8);
    disk_change(3 * PER_BLOCK, PER_BLOCK, 1, true);
    disk_is_stable();
    g_assert_true(begin());
    run_each(make_fixed_kept, 30);
}

static void test_make_dynamic(void)
{
    make_image();
    g_assert_true(amend("subformat=fixed"));
    run_each(make_dynamic, 20);
}

/* A header copy is torn, there is space that nothing uses, and a log. */
static void test_repair(void)
{
    make_image_with_log();
    memset(files[IMAGE].data + 64 * KiB + 100, 0x55, 100);
    file_set_size(IMAGE, files[IMAGE].size + 3 * MiB);
    is_damaged = true;
    run_each(repair, 30);
}

/* Tables that have no copy in a log: what is odd there, and a damaged copy */
static void test_repair_tables(void)
{
    uint8_t *f = files[IMAGE].data, *metadata = f + 3 * MiB, *bat = f + 2 * MiB;

    make_image();
    end();
    memset(f + 192 * KiB + 100, 0x55, 100);
    g_assert_cmpmem(metadata, 8, "metadata", 8);
    put_le(metadata + 8, 1, 2);
    put_le(metadata + 12, 2, 4);
    put_le(metadata + 32 + 28, 3, 4);
    /* The entry of a block of zeros keeps what is none of its own. */
    g_assert_cmpint(get_le(bat + 8 * 12, 8), <, 8);
    put_le(bat + 8 * 12, MiB | 2, 8);
    is_damaged = true;
    g_assert_true(begin());
    run_each(repair, 30);
}

static void run_each_with_bitmaps(void (*scenario)(void), unsigned least)
{
    look_after = bitmap_check;
    all_ways = scenario == use_bitmaps || scenario == repair;
    run_each(scenario, least);
    look_after = NULL;
    all_ways = false;
}

static void test_bitmaps_first(void)
{
    make_image();
    run_each_with_bitmaps(first_bitmap, 30);
}

static void test_bitmaps(void)
{
    make_image_with_bitmaps();
    run_each_with_bitmaps(use_bitmaps, 30);
}

static void test_bitmaps_resize(void)
{
    make_image_with_bitmaps();
    run_each_with_bitmaps(resize, 30);
}

static void test_bitmaps_compact(void)
{
    make_image_with_bitmaps();
    disk_discard(image, PER_BLOCK, PER_BLOCK);
    run_each_with_bitmaps(compact_space, 30);
}

/* What a repair changes, bitmaps have to be stored again for. */
static void test_bitmaps_repair(void)
{
    make_image_with_bitmaps();
    end();
    memset(files[IMAGE].data + 64 * KiB + 100, 0x55, 100);
    file_set_size(IMAGE, files[IMAGE].size + 3 * MiB);
    is_damaged = true;
    run_each_with_bitmaps(repair, 30);
}

/* Where nothing is to be repaired, bits can be what can't be read. */
static void test_bitmaps_check(void)
{
    make_image_with_bitmaps();
    run_each_with_bitmaps(repair, 15);
}

/* ... and nothing but one of them is to be repaired. */
static void test_bitmaps_damaged(void)
{
    BDRVVHDXState *s;
    uint64_t map = 0;

    make_image_with_bitmaps();
    end();
    g_assert_true(begin());
    s = blk_bs(image)->opaque;
    for (guint i = 0; i < s->dirty->list->len; i++) {
        VHDXDirtyBitmap *b = g_ptr_array_index(s->dirty->list, i);

        if (!strcmp(b->name, "c")) {
            map = s->metadata.offset + b->map_page * 4096;
        }
    }
    g_assert_cmpuint(map, !=, 0);
    end();
    files[IMAGE].data[map] ^= 1;
    is_damaged = true;
    run_each_with_bitmaps(repair, 20);
}

static void test_reopen(void)
{
    make_image();
    run_each(reopen, 20);
}

static void test_chain_open(void)
{
    make_chain_with_far_items();
    run_each(open_and_read, 15);
    /* Each of them in each way: there are few. */
    for (unsigned way = 0; way < WAYS; way++) {
        unsigned at = 0;

        do {
            run(open_and_read, at++, way);
        } while (fault.hit);
    }
}

static void test_chain_requests(void)
{
    make_chain();
    run_each(write_much, 50);
}

static void test_chain_commit(void)
{
    make_chain();
    run_each(commit, 50);
}

static void test_chain_resize(void)
{
    make_chain();
    run_each(resize, 50);
}

static void test_chain_flatten(void)
{
    make_empty_chain();
    is_flattened = true;
    run_each(flatten, 50);
}

int main(int argc, char **argv)
{
    static const RunTest tests[] = {
        { "create", test_create },
        { "create-fixed", test_create_fixed },
        { "create-written", test_create_written },
        { "open", test_open },
        { "open-replay", test_open_replay },
        { "open-to-read", test_open_to_read },
        { "first-write", test_first_write },
        { "requests", test_requests },
        { "requests-replay", test_requests_replay },
        { "resize", test_resize },
        { "resize-fixed", test_resize_fixed },
        { "make-fixed", test_make_fixed },
        { "make-fixed-online", test_make_fixed_online },
        { "make-fixed-kept", test_make_fixed_kept },
        { "make-dynamic", test_make_dynamic },
        { "repair", test_repair },
        { "repair-tables", test_repair_tables },
        { "amend", test_amend },
        { "reopen", test_reopen },
        { "bitmaps-first", test_bitmaps_first },
        { "bitmaps", test_bitmaps },
        { "bitmaps-resize", test_bitmaps_resize },
        { "bitmaps-compact", test_bitmaps_compact },
        { "bitmaps-repair", test_bitmaps_repair },
        { "bitmaps-check", test_bitmaps_check },
        { "bitmaps-damaged", test_bitmaps_damaged },
        { "chain-open", test_chain_open },
        { "chain-requests", test_chain_requests },
        { "chain-commit", test_chain_commit },
        { "chain-resize", test_chain_resize },
        { "chain-flatten", test_chain_flatten },
    };

    return runs_main(argc, argv, "every-call", tests, ARRAY_SIZE(tests));
}
