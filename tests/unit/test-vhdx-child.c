/*
 * VHDX unit tests: writes to a differencing image that meet in a certain order
 *
 * blkdebug under the image holds writes back while others run, or fails one.
 * The parent is full of one byte, so that it shows where it should not.  Where
 * it has zeros, a test may write while the parent is asked for them.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "block/vhdx/state.h"
#include "vhdx-test-child.h"
#include "vhdx-test-filter.h"
#include "vhdx-test-hold.h"

#define BLOCK       MiB
#define DISK_SIZE   (16 * MiB)

/* What the parent is full of */
#define PARENT      0x11

static char *test_dir;
static char *image_path;
static char *parent_path;

/* How long the file is, and for good; 0: it gets longer. */
static int64_t file_length;

/* The node that is the parent, or NULL for a new one upon the file */
static const char *parent_node;

static void create_image(void)
{
    g_autofree char *options =
        g_strdup_printf("block_size=%" PRIu64 ",block_state_zero=off",
                        (uint64_t)BLOCK);

    bdrv_img_create(image_path, "vhdx", NULL, NULL, options, DISK_SIZE,
                    BDRV_O_RDWR, true, &error_abort);
    child_of_file(image_path);
}

/* With @fail, that write to a block fails, of which the first is number 1. */
static BlockBackend *open_image(int fail)
{
    QDict *options = qdict_new();

    qdict_put_str(options, "driver", "vhdx");
    qdict_put_str(options, "discard", "unmap");
    qdict_put_str(options, "file.driver", "blkdebug");
    if (file_length) {
        qdict_put_str(options, "file.image.driver", "raw");
        qdict_put_int(options, "file.image.size", file_length);
        qdict_put_str(options, "file.image.file.driver", "file");
        qdict_put_str(options, "file.image.file.filename", image_path);
    } else {
        qdict_put_str(options, "file.image.driver", "file");
        qdict_put_str(options, "file.image.filename", image_path);
    }
    for (int i = 1; i < fail; i++) {
        g_autofree char *prefix = g_strdup_printf("file.set-state.%d.", i - 1);
        g_autofree char *event = g_strconcat(prefix, "event", NULL);
        g_autofree char *state = g_strconcat(prefix, "state", NULL);
        g_autofree char *next = g_strconcat(prefix, "new_state", NULL);

        qdict_put_str(options, event, "write_aio");
        qdict_put_int(options, state, i);
        qdict_put_int(options, next, i + 1);
    }
    if (fail) {
        qdict_put_str(options, "file.inject-error.0.event", "write_aio");
        qdict_put_int(options, "file.inject-error.0.state", fail);
        qdict_put_str(options, "file.inject-error.0.iotype", "write");
        qdict_put_bool(options, "file.inject-error.0.once", true);
    }
    if (parent_node) {
        qdict_put_str(options, "backing", parent_node);
    } else {
        qdict_put_str(options, "backing.driver", "raw");
        qdict_put_str(options, "backing.file.driver", "file");
        qdict_put_str(options, "backing.file.filename", parent_path);
    }
    return blk_new_open(NULL, NULL, options,
                        BDRV_O_RDWR | BDRV_O_RESIZE | BDRV_O_UNMAP |
                        BDRV_O_NO_FLUSH,
                        &error_abort);
}

/* Open a new child the log of which is open, and that has no sector bitmap. */
static BlockBackend *open_new(int fail)
{
    BlockBackend *blk;

    create_image();
    blk = open_image(fail);
    g_assert_cmpint(write_fill(blk, 0, BLOCK, 1), >=, 0);
    return blk;
}

/* A part of the disk that is all @fill */
typedef struct Part {
    int64_t at;                     /* bytes */
    size_t bytes;
    int fill;
} Part;

/* Check that the disk has @parts from its start on, and else its parent's. */
static void check_parts(BlockBackend *blk, const Part *parts, int count)
{
    int64_t done = 0;

    for (int i = 0; i < count; i++) {
        if (parts[i].at > done) {
            check_fill(blk, done, parts[i].at - done, PARENT);
        }
        check_fill(blk, parts[i].at, parts[i].bytes, parts[i].fill);
        done = parts[i].at + parts[i].bytes;
    }
    check_fill(blk, done, DISK_SIZE - done, PARENT);
}

/* The same now, and when the image has been closed and opened again. */
static void end_with(BlockBackend *blk, const Part *parts, int count)
{
    BdrvCheckResult result = { 0 };

    check_parts(blk, parts, count);
    blk_unref(blk);
    blk = open_image(0);
    check_parts(blk, parts, count);
    g_assert_cmpint(bdrv_check(blk_bs(blk), &result, 0), ==, 0);
    g_assert_cmpint(result.corruptions + result.check_errors, ==, 0);
    g_assert_cmpint(result.leaks, ==, 0);
    blk_unref(blk);
    unlink(image_path);
}

/* Two writes share a new block.  Both have their sectors in the end. */
static void test_publish_twice(void)
{
    BlockBackend *blk = open_new(0);
    Write *held = hold_write(blk, BLOCK + 64 * KiB, 4096, 2);
    const Part first[] = {
        { 0, BLOCK, 1 }, { BLOCK, 4096, 3 },
    };
    const Part both[] = {
        { 0, BLOCK, 1 }, { BLOCK, 4096, 3 }, { BLOCK + 64 * KiB, 4096, 2 },
    };

    check_parts(blk, first, 1);
    g_assert_cmpint(write_fill(blk, BLOCK, 4096, 3), >=, 0);
    check_parts(blk, first, 2);
    g_assert_cmpint(release_write(held), >=, 0);
    end_with(blk, both, 3);
}

/* A write of the whole block comes first, or last. */
static void test_publish_whole(bool whole_is_held)
{
    BlockBackend *blk = open_new(0);
    int64_t at = BLOCK + 64 * KiB;
    Write *held = whole_is_held ? hold_write(blk, BLOCK, BLOCK, 2) :
                                  hold_write(blk, at, 4096, 3);
    const Part parts[] = {
        { 0, BLOCK, 1 }, { at, 4096, 3 },
    };
    const Part last[] = {
        { 0, BLOCK, 1 }, { BLOCK, BLOCK, 2 },
    };
    const Part part_last[] = {
        { 0, BLOCK, 1 }, { BLOCK, 64 * KiB, 2 }, { at, 4096, 3 },
        { at + 4096, BLOCK - 64 * KiB - 4096, 2 },
    };

    if (whole_is_held) {
        g_assert_cmpint(write_fill(blk, at, 4096, 3), >=, 0);
        check_parts(blk, parts, 2);
        g_assert_cmpint(release_write(held), >=, 0);
        end_with(blk, last, 2);
    } else {
        g_assert_cmpint(write_fill(blk, BLOCK, BLOCK, 2), >=, 0);
        check_parts(blk, last, 2);
        g_assert_cmpint(release_write(held), >=, 0);
        end_with(blk, part_last, 4);
    }
}

static void test_whole_last(void)
{
    test_publish_whole(true);
}

static void test_whole_first(void)
{
    test_publish_whole(false);
}

/*
 * A new block is zeroed as a whole before its first write is done: that is
 * done again, and the parent's data does not come back.
 */
static void test_zero_over_new(BdrvRequestFlags flags)
{
    BlockBackend *blk = open_new(0);
    int64_t at = BLOCK + 64 * KiB;
    Write *held = hold_write(blk, at, 4096, 2);
    const Part zeros[] = {
        { 0, BLOCK, 1 }, { BLOCK, BLOCK, 0 },
    };
    const Part parts[] = {
        { 0, BLOCK, 1 }, { BLOCK, 64 * KiB, 0 }, { at, 4096, 2 },
        { at + 4096, BLOCK - 64 * KiB - 4096, 0 },
    };

    g_assert_cmpint(blk_pwrite_zeroes(blk, BLOCK, BLOCK, flags), >=, 0);
    check_parts(blk, zeros, 2);
    g_assert_cmpint(release_write(held), >=, 0);
    end_with(blk, parts, 4);
}

static void test_zero_new(void)
{
    test_zero_over_new(0);
}

static void test_unmap_new(void)
{
    test_zero_over_new(BDRV_REQ_MAY_UNMAP);
}

/*
 * A block is discarded while a sector of it is written to that the parent had:
 * the write came before that, and others have the place afterwards.
 */
static void test_discard_under_write(void)
{
    BlockBackend *blk = open_new(0);
    Part parts[16];
    Write *held;

    g_assert_cmpint(write_fill(blk, BLOCK, 4096, 3), >=, 0);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    held = hold_write(blk, BLOCK + 64 * KiB, 4096, 2);
    g_assert_cmpint(discard_wait(blk, BLOCK, BLOCK), >=, 0);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    check_fill(blk, BLOCK, BLOCK, 0);
    for (int i = 0; i < 16; i++) {
        parts[i] = (Part) { i * BLOCK, BLOCK, i == 1 ? 0 : i + 1 };
        if (i > 1) {
            g_assert_cmpint(write_fill(blk, i * BLOCK, BLOCK, i + 1), >=, 0);
        }
    }
    g_assert_cmpint(release_write(held), >=, 0);
    end_with(blk, parts, 16);
}

/* The first writes to two blocks of a chunk make one sector bitmap. */
static void test_share_bitmap(bool first_ends_first)
{
    BlockBackend *blk = open_new(0);
    Write *a = hold_write_as(blk, "a", BLOCK, 4096, 2);
    Write *b = hold_write_as(blk, "b", 2 * BLOCK + 512, 4096, 3);
    const Part parts[] = {
        { 0, BLOCK, 1 }, { BLOCK, 4096, 2 }, { 2 * BLOCK + 512, 4096, 3 },
    };

    check_parts(blk, parts, 1);
    if (first_ends_first) {
        g_assert_cmpint(release_write_as(a, "a"), >=, 0);
        check_parts(blk, parts, 2);
        g_assert_cmpint(release_write_as(b, "b"), >=, 0);
    } else {
        g_assert_cmpint(release_write_as(b, "b"), >=, 0);
        check_fill(blk, BLOCK, 4096, PARENT);
        g_assert_cmpint(release_write_as(a, "a"), >=, 0);
    }
    end_with(blk, parts, 3);
}

static void test_bitmap_in_order(void)
{
    test_share_bitmap(true);
}

static void test_bitmap_other_order(void)
{
    test_share_bitmap(false);
}

/* How long the file is with two blocks of which the second write makes one. */
static int64_t length_of_two(bool fail)
{
    BlockBackend *blk = open_new(fail ? 2 : 0);
    const Part parts[] = {
        { 0, BLOCK, 1 }, { 3 * BLOCK, 4096, 3 },
    };
    struct stat st;

    if (fail) {
        g_assert_cmpint(write_fill(blk, BLOCK, 4096, 2), ==, -EIO);
        check_parts(blk, parts, 1);
    }
    /* Places that a failed write has touched are free after a commit. */
    g_assert_cmpint(blk_flush(blk), ==, 0);
    g_assert_cmpint(write_fill(blk, 3 * BLOCK, 4096, 3), >=, 0);
    check_parts(blk, parts, 2);
    blk_unref(blk);
    g_assert_cmpint(stat(image_path, &st), ==, 0);
    end_with(open_image(0), parts, 2);
    return st.st_size;
}

/* A write that fails gives back both places, the block's and the bitmap's. */
static void test_write_failed(void)
{
    g_assert_cmpint(length_of_two(true), ==, length_of_two(false));
}

/*
 * There is space for a new block, but not for the sector bitmap too that tells
 * which part of it is written: the block's place is free for one that needs no
 * bitmap.
 */
static void test_no_space_for_bitmap(void)
{
    const Part parts[] = {
        { 0, BLOCK, 1 }, { 3 * BLOCK, BLOCK, 3 },
    };
    BlockBackend *blk;
    struct stat st;

    create_image();
    g_assert_cmpint(stat(image_path, &st), ==, 0);
    file_length = st.st_size + 2 * BLOCK;
    g_assert_cmpint(truncate(image_path, file_length), ==, 0);
    blk = open_image(0);
    g_assert_cmpint(write_fill(blk, 0, BLOCK, 1), >=, 0);
    for (int i = 0; i < 2; i++) {
        g_assert_cmpint(write_fill(blk, BLOCK, 4096, 2), ==, -ENOSPC);
        check_parts(blk, parts, 1);
    }
    g_assert_cmpint(write_fill(blk, 3 * BLOCK, BLOCK, 3), >=, 0);
    end_with(blk, parts, 2);
    file_length = 0;
}

/* -- A part is zeroed where the parent has zeros -- */

/* This block of the parent has them. */
#define ZEROS       (5 * BLOCK)

static void put_parent(int64_t at, size_t bytes, int fill)
{
    g_autofree uint8_t *buf = g_malloc(bytes);
    int fd = open(parent_path, O_RDWR);

    memset(buf, fill, bytes);
    g_assert_cmpint(pwrite(fd, buf, bytes, at), ==, bytes);
    close(fd);
}

/* A write to @blk, that is done when the parent is asked, once */
static struct Meanwhile {
    BlockBackend *blk;
    int64_t at;
    int ret;
} meanwhile;

/* A sector of block ZEROS that has none */
static int64_t parent_data;

static int coroutine_fn GRAPH_RDLOCK
parent_block_status(BlockDriverState *bs, VHDXStatusMode mode, int64_t offset,
                    int64_t bytes, int64_t *pnum, int64_t *map,
                    BlockDriverState **file)
{
    BlockBackend *blk = g_steal_pointer(&meanwhile.blk);

    if (blk) {
        uint8_t buf[4096];

        memset(buf, 3, sizeof(buf));
        meanwhile.ret = blk_co_pwrite(blk, meanwhile.at, sizeof(buf), buf, 0);
    }
    if (offset < ZEROS || offset >= ZEROS + BLOCK) {
        *pnum = 512;
        return BDRV_BLOCK_DATA;
    }
    if (offset >= parent_data && offset - parent_data < 512) {
        *pnum = MIN(bytes, parent_data + 512 - offset);
        return BDRV_BLOCK_DATA;
    }
    *pnum = MIN(bytes, (parent_data > offset ? parent_data : ZEROS + BLOCK) -
                       offset);
    return BDRV_BLOCK_ZERO;
}

static BlockDriver bdrv_parent = {
    .format_name            = "vhdx-test-parent",
    .is_filter              = true,
    .bdrv_open              = filter_open,
    .bdrv_child_perm        = bdrv_default_perms,
    .bdrv_co_preadv         = filter_preadv,
    .bdrv_co_block_status   = parent_block_status,
};

/* Let the parent have them, but for the sector @data if that is not 0. */
static BlockDriverState *zeros_begin(int64_t data)
{
    QDict *options = qdict_new();

    put_parent(ZEROS, BLOCK, 0);
    if (data) {
        put_parent(data, 512, PARENT);
    }
    parent_data = data;
    qdict_put_str(options, "driver", "raw");
    qdict_put_str(options, "node-name", "parent");
    qdict_put_bool(options, "read-only", true);
    qdict_put_str(options, "file.driver", "vhdx-test-parent");
    qdict_put_str(options, "file.file.driver", "file");
    qdict_put_str(options, "file.file.filename", parent_path);
    parent_node = "parent";
    return bdrv_open(NULL, NULL, options, 0, &error_abort);
}

static void zeros_end(BlockDriverState *parent)
{
    bdrv_unref(parent);
    parent_node = NULL;
    put_parent(ZEROS, BLOCK, PARENT);
}

/* Whether block ZEROS is one of zeros as a whole, with no place. */
static bool has_no_place(BlockBackend *blk)
{
    int64_t n;
    int ret;

    GRAPH_RDLOCK_GUARD_MAINLOOP();
    ret = bdrv_block_status(blk_bs(blk), ZEROS, BLOCK, &n, NULL, NULL);
    g_assert_cmpint(ret, >=, 0);
    return (ret & BDRV_BLOCK_ZERO) && !(ret & BDRV_BLOCK_OFFSET_VALID) &&
           n == BLOCK;
}

/* Parts of the block are zeroed one by one: it takes no space. */
static void test_zeros_over_zeros(BdrvRequestFlags flags)
{
    const Part parts[] = {
        { 0, BLOCK, 1 }, { ZEROS, BLOCK, 0 },
    };
    BlockDriverState *parent = zeros_begin(0);
    BlockBackend *blk;

    for (int first = 0; first < 16; first += 5) {
        blk = open_new(0);
        for (int i = 0; i < 16; i++) {
            int64_t at = ZEROS + (first + i) % 16 * 64 * KiB;

            g_assert_cmpint(blk_pwrite_zeroes(blk, at, 64 * KiB, flags), >=, 0);
            g_assert_true(has_no_place(blk));
        }
        end_with(blk, parts, 2);
    }
    zeros_end(parent);
}

static void test_write_zeros_over_zeros(void)
{
    test_zeros_over_zeros(0);
}

static void test_unmap_over_zeros(void)
{
    test_zeros_over_zeros(BDRV_REQ_MAY_UNMAP);
}

/* A sector of the block is none of zeros: it shows. */
static void test_zeros_beside_data(void)
{
    const int64_t at = ZEROS + 64 * KiB;
    const int64_t data[] = {
        ZEROS, at - 512, at + 4096, ZEROS + BLOCK - 512,
    };

    for (int i = 0; i < ARRAY_SIZE(data); i++) {
        BlockDriverState *parent = zeros_begin(data[i]);
        BlockBackend *blk = open_new(0);
        const Part parts[] = {
            { 0, BLOCK, 1 }, { ZEROS, data[i] - ZEROS, 0 },
            { data[i], 512, PARENT },
            { data[i] + 512, ZEROS + BLOCK - 512 - data[i], 0 },
        };

        g_assert_cmpint(blk_pwrite_zeroes(blk, at, 4096, 0), >=, 0);
        end_with(blk, parts, 4);
        zeros_end(parent);
    }
}

/* The same with a write to the block that is under way, and comes last */
static void test_zeros_under_write(void)
{
    const Part parts[] = {
        { 0, BLOCK, 1 }, { ZEROS, 64 * KiB, 0 }, { ZEROS + 64 * KiB, 4096, 2 },
        { ZEROS + 68 * KiB, BLOCK - 68 * KiB, 0 },
    };
    BlockDriverState *parent = zeros_begin(0);
    BlockBackend *blk = open_new(0);
    Write *held = hold_write(blk, ZEROS + 64 * KiB, 4096, 2);

    g_assert_cmpint(blk_pwrite_zeroes(blk, ZEROS, 4096, 0), >=, 0);
    check_fill(blk, ZEROS, BLOCK, 0);
    g_assert_cmpint(release_write(held), >=, 0);
    end_with(blk, parts, 4);
    zeros_end(parent);
}

/* ... and with one that ends while the parent is asked */
static void test_write_under_zeros(BdrvRequestFlags flags)
{
    const Part parts[] = {
        { 0, BLOCK, 1 }, { ZEROS, 64 * KiB, 0 }, { ZEROS + 64 * KiB, 4096, 3 },
        { ZEROS + 68 * KiB, BLOCK - 68 * KiB, 0 },
    };
    BlockDriverState *parent = zeros_begin(0);
    BlockBackend *blk = open_new(0);

    meanwhile = (struct Meanwhile) {
        .blk = blk,
        .at = ZEROS + 64 * KiB,
        .ret = -EINPROGRESS,
    };
    g_assert_cmpint(blk_pwrite_zeroes(blk, ZEROS, 4096, flags), >=, 0);
    g_assert_cmpint(meanwhile.ret, >=, 0);
    end_with(blk, parts, 4);
    zeros_end(parent);
}

static void test_write_under_write_zeros(void)
{
    test_write_under_zeros(0);
}

static void test_write_under_unmap(void)
{
    test_write_under_zeros(BDRV_REQ_MAY_UNMAP);
}

/* -- Another size of the disk -- */

typedef struct Resize {
    BlockBackend *blk;
    int64_t size;
    int ret;
} Resize;

static void coroutine_fn resize_entry(void *opaque)
{
    Resize *r = opaque;

    r->ret = blk_co_truncate(r->blk, r->size, true, PREALLOC_MODE_OFF, 0,
                             &error_abort);
}

static void start_resize(Resize *r, BlockBackend *blk, int64_t size)
{
    *r = (Resize) { .blk = blk, .size = size, .ret = -EINPROGRESS };
    qemu_coroutine_enter(qemu_coroutine_create(resize_entry, r));
}

static void end_resize(Resize *r)
{
    while (r->ret == -EINPROGRESS) {
        aio_poll(qemu_get_aio_context(), true);
    }
    g_assert_cmpint(r->ret, ==, 0);
}

static void resize(BlockBackend *blk, int64_t size)
{
    Resize r;

    start_resize(&r, blk, size);
    end_resize(&r);
}

/* See that it is @size bytes long, a good image, and gone then. */
static void end_sized(BlockBackend *blk, int64_t size)
{
    BdrvCheckResult result = { 0 };

    g_assert_cmpint(blk_getlength(blk), ==, size);
    g_assert_cmpint(bdrv_check(blk_bs(blk), &result, 0), ==, 0);
    g_assert_cmpint(result.corruptions + result.check_errors, ==, 0);
    blk_unref(blk);
    unlink(image_path);
}

/* A child that ends at @end, and the parent goes on there. */
static BlockBackend *open_cut(int64_t end)
{
    BlockBackend *blk = open_new(0);

    resize(blk, end);
    return blk;
}

/* Each sector of the last block behind the old end gets zeros of its own. */
static void test_grow_over_parent(void)
{
    const int64_t end = 4 * BLOCK + 64 * KiB;
    BlockBackend *blk = open_cut(end);

    resize(blk, 8 * BLOCK);
    for (int i = 0; i < 2; i++) {
        check_fill(blk, 0, BLOCK, 1);
        check_fill(blk, BLOCK, end - BLOCK, PARENT);
        check_fill(blk, end, 8 * BLOCK - end, 0);
        blk_unref(blk);
        blk = open_image(0);
    }
    g_assert_cmpint(write_fill(blk, end + BLOCK, 4096, 2), >=, 0);
    check_fill(blk, end, BLOCK, 0);
    check_fill(blk, end + BLOCK + 4096, BLOCK, 0);
    end_sized(blk, 8 * BLOCK);
}

/* A disk gets longer while the last block is written to: one after another. */
static void test_grow_under_write(void)
{
    const int64_t end = 4 * BLOCK + 64 * KiB;
    BlockBackend *blk = open_cut(end);
    Write *held = hold_write(blk, end - 8192, 4096, 2);
    Resize r;

    start_resize(&r, blk, 12 * BLOCK);
    for (int i = 0; i < 20; i++) {
        aio_poll(qemu_get_aio_context(), false);
    }
    g_assert_cmpint(r.ret, ==, -EINPROGRESS);
    g_assert_cmpint(release_write(held), >=, 0);
    end_resize(&r);
    check_fill(blk, BLOCK, end - 8192 - BLOCK, PARENT);
    check_fill(blk, end - 8192, 4096, 2);
    check_fill(blk, end - 4096, 4096, PARENT);
    check_fill(blk, end, 12 * BLOCK - end, 0);
    end_sized(blk, 12 * BLOCK);
}

static void coroutine_fn flatten_entry(void *opaque)
{
    Write *w = opaque;

    GRAPH_RDLOCK_GUARD();
    w->ret = bdrv_co_change_backing_file(blk_bs(w->blk), NULL, NULL, false);
}

/*
 * A disk gets longer while the image is made one without a parent: it has none
 * after that, either.
 */
static void test_grow_under_flatten(void)
{
    BlockBackend *blk = open_new(0);
    BDRVVHDXState *s = blk_bs(blk)->opaque;
    Write flatten = { .blk = blk, .ret = -EINPROGRESS };
    Resize r;

    /* What is held back is that its sector bitmap's place is given up. */
    g_assert_cmpint(write_fill(blk, BLOCK, 4096, 2), >=, 0);
    g_assert_cmpint(bdrv_debug_breakpoint(blk_bs(blk), "cluster_free", "held"),
                    ==, 0);
    qemu_coroutine_enter(qemu_coroutine_create(flatten_entry, &flatten));
    while (!bdrv_debug_is_suspended(blk_bs(blk), "held")) {
        aio_poll(qemu_get_aio_context(), true);
    }
    g_assert_true(s->params.has_parent);
    start_resize(&r, blk, DISK_SIZE + BLOCK);
    g_assert_cmpint(r.ret, ==, -EINPROGRESS);
    g_assert_cmpint(bdrv_debug_resume(blk_bs(blk), "held"), ==, 0);
    end_resize(&r);
    g_assert_cmpint(flatten.ret, ==, 0);
    g_assert_false(s->params.has_parent);
    check_fill(blk, 0, BLOCK, 1);
    check_fill(blk, BLOCK, 4096, 2);
    check_fill(blk, 2 * BLOCK, DISK_SIZE - BLOCK, 0);
    end_sized(blk, DISK_SIZE + BLOCK);
}

/*
 * What was behind the end of a shorter disk does not come back: bits, and
 * entries in the rest of the chunk.
 */
static void test_shrink_and_grow(void)
{
    BlockBackend *blk = open_new(0);
    const int64_t end = 3 * BLOCK + 64 * KiB;

    g_assert_cmpint(write_fill(blk, end, 64 * KiB, 2), >=, 0);
    g_assert_cmpint(write_fill(blk, end - 4096, 4096, 3), >=, 0);
    for (int i = 4; i < 10; i++) {
        g_assert_cmpint(write_fill(blk, i * BLOCK + 4096, 4096, 4), >=, 0);
    }
    resize(blk, end);
    g_assert_cmpint(write_fill(blk, 2 * BLOCK, 4096, 5), >=, 0);
    resize(blk, DISK_SIZE + 4 * BLOCK);
    for (int i = 0; i < 2; i++) {
        check_fill(blk, 2 * BLOCK, 4096, 5);
        check_fill(blk, 3 * BLOCK, 60 * KiB, PARENT);
        check_fill(blk, end - 4096, 4096, 3);
        check_fill(blk, end, DISK_SIZE + 4 * BLOCK - end, 0);
        blk_unref(blk);
        blk = open_image(0);
    }
    end_sized(blk, DISK_SIZE + 4 * BLOCK);
}

/* Behind the parent's end there is no need of zeros. */
static void test_grow_behind_parent(void)
{
    BlockBackend *blk = open_new(0);
    struct stat before, after;

    resize(blk, DISK_SIZE + 64 * KiB);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    g_assert_cmpint(stat(image_path, &before), ==, 0);
    resize(blk, DISK_SIZE + 3 * BLOCK + 4096);
    g_assert_cmpint(stat(image_path, &after), ==, 0);
    g_assert_cmpint(after.st_size, ==, before.st_size);
    check_fill(blk, BLOCK, DISK_SIZE - BLOCK, PARENT);
    check_fill(blk, DISK_SIZE, 3 * BLOCK + 4096, 0);
    end_sized(blk, DISK_SIZE + 3 * BLOCK + 4096);
}

static void make_parent(void)
{
    g_autofree char *buf = g_malloc(DISK_SIZE);

    memset(buf, PARENT, DISK_SIZE);
    g_assert_true(g_file_set_contents(parent_path, buf, DISK_SIZE, NULL));
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    bdrv_init();
    bdrv_register(&bdrv_parent);
    qemu_init_main_loop(&error_abort);
    test_dir = g_dir_make_tmp("vhdx-test-XXXXXX", NULL);
    g_assert_nonnull(test_dir);
    image_path = g_build_filename(test_dir, "image.vhdx", NULL);
    parent_path = g_build_filename(test_dir, "parent", NULL);
    make_parent();

    g_test_add_func("/vhdx/child/publish-twice", test_publish_twice);
    g_test_add_func("/vhdx/child/whole-last", test_whole_last);
    g_test_add_func("/vhdx/child/whole-first", test_whole_first);
    g_test_add_func("/vhdx/child/zero-over-new", test_zero_new);
    g_test_add_func("/vhdx/child/unmap-over-new", test_unmap_new);
    g_test_add_func("/vhdx/child/discard-under-write",
                    test_discard_under_write);
    g_test_add_func("/vhdx/child/bitmap/in-order", test_bitmap_in_order);
    g_test_add_func("/vhdx/child/bitmap/other-order", test_bitmap_other_order);
    g_test_add_func("/vhdx/child/write-failed", test_write_failed);
    g_test_add_func("/vhdx/child/no-space-for-bitmap",
                    test_no_space_for_bitmap);
    g_test_add_func("/vhdx/child/zeros/write", test_write_zeros_over_zeros);
    g_test_add_func("/vhdx/child/zeros/unmap", test_unmap_over_zeros);
    g_test_add_func("/vhdx/child/zeros/beside-data", test_zeros_beside_data);
    g_test_add_func("/vhdx/child/zeros/under-write", test_zeros_under_write);
    g_test_add_func("/vhdx/child/zeros/written-meanwhile",
                    test_write_under_write_zeros);
    g_test_add_func("/vhdx/child/zeros/unmapped-meanwhile",
                    test_write_under_unmap);
    g_test_add_func("/vhdx/child/grow/over-parent", test_grow_over_parent);
    g_test_add_func("/vhdx/child/grow/under-write", test_grow_under_write);
    g_test_add_func("/vhdx/child/grow/under-flatten", test_grow_under_flatten);
    g_test_add_func("/vhdx/child/grow/behind-parent", test_grow_behind_parent);
    g_test_add_func("/vhdx/child/shrink", test_shrink_and_grow);
    ret = g_test_run();

    unlink(parent_path);
    rmdir(test_dir);
    g_free(parent_path);
    g_free(image_path);
    g_free(test_dir);
    return ret;
}
