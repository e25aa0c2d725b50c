/*
 * VHDX unit tests: space on nodes that grow, refuse to, and fail at it
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/cache.h"
#include "block/vhdx/create.h"
#include "block/vhdx/lock.h"
#include "vhdx-test-node.h"

#define PAGE_BLOCKS 512             /* that a page of the BAT tells of */

/* -- Growth -- */

/* A device is full, gets longer while the image is open, and is used on. */
static void test_device_grows(void)
{
    BlockBackend *blk;
    int full = 0;

    create_image("block_size=1M");
    node.length = 9 * MiB + 1536;
    g_assert_cmpint(truncate(image_path, 40 * MiB), ==, 0);
    blk = open_image(image_path, BDRV_O_RDWR);
    for (int turn = 0; turn < 3; turn++) {
        int first = full;

        while (write_fill(blk, full * BLOCK, BLOCK, full + 1) >= 0) {
            full++;
        }
        g_assert_cmpint(full, >, first);
        g_assert_cmpint(write_fill(blk, full * BLOCK, 512, 1), ==, -ENOSPC);
        g_assert_cmpint(full * BLOCK, <, node.length - 4 * MiB);
        check_blocks(blk, 0, full);
        flush(blk);
        copy_image();
        check_copy(0, full);
        node.length += 3 * MiB - 512 * turn;
    }
    blk_unref(blk);
    blk = open_image(image_path, BDRV_O_RDWR);
    check_blocks(blk, 0, full);
    check_image(blk, 0);
    blk_unref(blk);
}

/* Growth fails for a time, for each reason that there is. */
static void test_growth_fails(void)
{
    static const int errors[] = { -EINVAL, -ENOTSUP, -EPERM, -ENOSPC, -EFBIG,
                                  -EDQUOT, -EIO };

    for (size_t i = 0; i < G_N_ELEMENTS(errors); i++) {
        BlockBackend *blk;
        int ret;

        create_image("block_size=1M");
        blk = open_image(image_path, BDRV_O_RDWR);
        node.grow = errors[i];
        for (int turn = 0; turn < 2; turn++) {
            ret = write_fill(blk, 0, BLOCK, 1);
            g_assert_cmpint(ret, ==, errors[i] == -EIO ? -EIO : -ENOSPC);
        }
        node.grow = 0;
        write_blocks(blk, 0, 30);
        flush(blk);
        check_blocks(blk, 0, 30);
        blk_unref(blk);
        /* The tail is cut all the same. */
        g_assert_cmpint(file_size(image_path), ==, 34 * MiB);
    }
}

/* Growth that takes effect although it fails: the file is never cut by it. */
static void test_growth_effect(void)
{
    static const int errors[] = { -EINVAL, -EIO, -ENOSPC };

    for (size_t i = 0; i < G_N_ELEMENTS(errors); i++) {
        BlockBackend *blk;

        create_image("block_size=1M");
        blk = open_image(image_path, BDRV_O_RDWR);
        node.grow = errors[i];
        node.effect = node.grows = true;
        write_blocks(blk, 0, 10);
        flush(blk);
        copy_image();
        check_copy(0, 10);
        write_blocks(blk, 10, 40);
        check_fill(blk, 40 * BLOCK, BLOCK, 0);
        check_blocks(blk, 0, 40);
        node.grows = false;
        blk_unref(blk);
        blk = open_image(image_path, 0);
        check_blocks(blk, 0, 40);
        blk_unref(blk);
    }
}

/* -- Creation -- */

typedef struct Creation {
    BlockdevCreateOptions options;
    int ret;
} Creation;

static void coroutine_fn creation_entry(void *opaque)
{
    Creation *c = opaque;

    c->ret = vhdx_co_create(&c->options, NULL);
}

/* Make an image on the node, of @size bytes. */
static int create_on_node(uint64_t size, bool fixed, PreallocMode prealloc)
{
    BlockdevRef ref = {
        .type = QTYPE_QSTRING,
        .u.reference = (char *)"node",
    };
    Creation c = {
        .options.driver = BLOCKDEV_DRIVER_VHDX,
        .options.u.vhdx = {
            .file = &ref,
            .has_size = true,
            .size = size,
            .has_subformat = fixed,
            .subformat = BLOCKDEV_VHDX_SUBFORMAT_FIXED,
            .has_preallocation = true,
            .preallocation = prealloc,
        },
        .ret = -EINPROGRESS,
    };
    Coroutine *co = qemu_coroutine_create(creation_entry, &c);

    aio_co_enter(qemu_get_aio_context(), co);
    while (c.ret == -EINPROGRESS) {
        aio_poll(qemu_get_aio_context(), true);
    }
    return c.ret;
}

/* Open the node alone. */
static BlockBackend *open_node(void)
{
    QDict *options = qdict_new();

    qdict_put_str(options, "driver", "vhdx-test-node");
    qdict_put_str(options, "node-name", "node");
    qdict_put_str(options, "file.driver", "file");
    qdict_put_str(options, "file.filename", image_path);
    return blk_new_open(NULL, NULL, options, BDRV_O_RDWR | BDRV_O_RESIZE,
                        &error_abort);
}

/* Growth fails though it takes effect: what was there keeps its length. */
static void test_create_effect(void)
{
    static const PreallocMode modes[] = { PREALLOC_MODE_OFF,
                                          PREALLOC_MODE_FALLOC };
    const size_t old = 3 * MiB;
    g_autofree char *content = g_malloc(old);

    memset(content, 0x77, old);
    for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
        g_autofree char *now = NULL;
        BlockBackend *blk;
        gsize length;

        memset(&node, 0, sizeof(node));
        node.grow = -EIO;
        node.effect = true;
        g_assert_true(g_file_set_contents(image_path, content, old, NULL));
        blk = open_node();
        g_assert_cmpint(create_on_node(16 * MiB, true, modes[i]), ==, -EIO);
        blk_unref(blk);
        g_assert_true(g_file_get_contents(image_path, &now, &length, NULL));
        g_assert_cmpmem(now, length, content, old);
    }
}

/*
 * A node does not get as short as a new image, but could get longer, which only
 * trying tells: it has the length that it had.
 */
static void test_create_longer(void)
{
    const size_t old = 9 * MiB;
    g_autofree char *content = g_malloc(old);
    BlockBackend *blk;

    memset(content, 0x77, old);
    memset(&node, 0, sizeof(node));
    node.least = old;
    g_assert_true(g_file_set_contents(image_path, content, old, NULL));
    blk = open_node();
    g_assert_cmpint(create_on_node(DISK_SIZE, false, PREALLOC_MODE_OFF), ==, 0);
    g_assert_cmpint(blk_getlength(blk), ==, old);
    blk_unref(blk);
    blk = open_image(image_path, BDRV_O_RDWR);
    check_fill(blk, 0, DISK_SIZE, 0);
    write_blocks(blk, 0, 1);
    check_blocks(blk, 0, 1);
    check_fill(blk, BLOCK, BLOCK, 0);
    check_image(blk, 0);
    blk_unref(blk);
}

/* A reader checks the image when a writer has made the file longer. */
static void test_growth_seen(void)
{
    BlockBackend *reader, *writer;

    create_image("block_size=1M");
    reader = open_image(image_path, 0);
    writer = open_image(image_path, BDRV_O_RDWR);
    write_blocks(writer, 0, 40);
    blk_unref(writer);
    check_image(reader, 0);
    blk_unref(reader);
}

/*
 * A log entry whose write seemed to fail is there.  Who opens the image then
 * has its pages from it, and must not take for them what is written in its
 * place: an entry that begins with another page.
 */
static void test_entry_landed(void)
{
    int64_t in_page[3];
    BlockBackend *reader, *writer;
    uint8_t byte;

    for (int i = 0; i < 3; i++) {
        in_page[i] = (i * PAGE_BLOCKS + 176) * (int64_t)BLOCK;
    }
    create_sized("block_size=1M", 4 * PAGE_BLOCKS * (uint64_t)BLOCK);
    writer = open_image(image_path, BDRV_O_RDWR);
    g_assert_cmpint(write_fill(writer, in_page[1], 4 * KiB, 1), ==, 0);
    g_assert_cmpint(blk_flush(writer), ==, 0);
    g_assert_cmpint(write_fill(writer, in_page[2], 4 * KiB, 2), ==, 0);
    node.log_lost = true;
    g_assert_cmpint(blk_flush(writer), ==, -EIO);
    node.log_lost = false;

    reader = open_image(image_path, 0);
    g_assert_cmpint(write_fill(writer, in_page[0], 4 * KiB, 3), ==, 0);
    g_assert_cmpint(blk_flush(writer), ==, 0);
    g_assert_cmpint(blk_pread(reader, in_page[2], 1, &byte, 0), >=, 0);
    g_assert_true(byte == 0 || byte == 2);
    check_fill(reader, in_page[1], 4 * KiB, 1);
    blk_unref(reader);
    blk_unref(writer);

    writer = open_image(image_path, 0);
    for (int i = 0; i < 3; i++) {
        check_fill(writer, in_page[i], 4 * KiB, i ? i : 3);
    }
    blk_unref(writer);
}

/* -- Preallocation -- */

static uint64_t file_space(const char *path)
{
    struct stat st;

    g_assert_cmpint(stat(path, &st), ==, 0);
    return st.st_blocks * 512;
}

/*
 * Where the protocol has no preallocation 'full' is done by zeros, and 'falloc'
 * refused with a reason; no room for it is no reason.
 */
static void test_no_preallocation(void)
{
    static const int errors[] = { -ENOTSUP, -EINVAL };

    for (size_t i = 0; i < G_N_ELEMENTS(errors); i++) {
        BlockBackend *blk;
        Error *err = NULL;

        create_image("block_size=1M,subformat=fixed");
        node.prealloc = errors[i];
        blk = open_image(image_path, BDRV_O_RDWR | BDRV_O_RESIZE);
        g_assert_cmpint(blk_truncate(blk, DISK_SIZE + 8 * MiB, false,
                                     PREALLOC_MODE_FALLOC, 0, &err), ==,
                        -ENOTSUP);
        g_assert_nonnull(strstr(error_get_pretty(err), "no preallocation mode "
                                                       "'falloc'"));
        error_free(err);
        g_assert_cmpint(blk_getlength(blk), ==, DISK_SIZE);
        /* it has left room behind, of which nobody has seen space yet */
        g_assert_cmpint(blk_truncate(blk, DISK_SIZE + 8 * MiB, false,
                                     PREALLOC_MODE_FULL, 0, &error_abort), ==,
                        0);
        g_assert_cmpint(file_space(image_path), >=, 8 * MiB);
        g_assert_cmpint(blk_truncate(blk, DISK_SIZE + 16 * MiB, false,
                                     PREALLOC_MODE_FULL, 0, &error_abort), ==,
                        0);
        g_assert_cmpint(file_space(image_path), >=, 16 * MiB);
        g_assert_cmpint(file_space(image_path), <=, 24 * MiB);
        g_assert_cmpint(blk_truncate(blk, DISK_SIZE + 24 * MiB, false,
                                     PREALLOC_MODE_OFF, 0, &error_abort), ==,
                        0);
        g_assert_cmpint(file_space(image_path), <=, 24 * MiB);
        check_fill(blk, 0, DISK_SIZE + 24 * MiB, 0);
        check_image(blk, 0);
        blk_unref(blk);
        unlink(image_path);
    }
}

/* The same where an image is made fixed: it is as it was. */
static void test_fix_no_preallocation(void)
{
    static const int errors[] = { -ENOTSUP, -EINVAL };

    for (size_t i = 0; i < G_N_ELEMENTS(errors); i++) {
        BlockBackend *blk;
        Error *err = NULL;
        BdrvCheckResult result;

        create_image("block_size=1M");
        node.prealloc = errors[i];
        blk = open_image(image_path, BDRV_O_RDWR | BDRV_O_RESIZE);
        write_blocks(blk, 2, 4);
        g_assert_cmpint(amend_image(blk, "subformat=fixed,preallocation=falloc",
                                    &err), ==, -ENOTSUP);
        g_assert_nonnull(strstr(error_get_pretty(err), "no preallocation mode "
                                                       "'falloc'"));
        error_free(err);
        result = check_image(blk, 0);
        g_assert_cmpuint(result.bfi.allocated_clusters, ==, 2);
        g_assert_cmpint(amend_image(blk, "subformat=fixed,preallocation=full",
                                    &error_abort), ==, 0);
        result = check_image(blk, 0);
        g_assert_cmpuint(result.bfi.allocated_clusters, ==, DISK_SIZE / BLOCK);
        g_assert_cmpint(file_space(image_path), >=, DISK_SIZE);
        check_blocks(blk, 2, 4);
        check_fill(blk, 4 * BLOCK, DISK_SIZE - 4 * BLOCK, 0);
        blk_unref(blk);
        unlink(image_path);
    }
}

/* Space that the file had before is none that was preallocated. */
static void test_preallocation_inside(void)
{
    BlockBackend *blk;

    create_image("block_size=1M,subformat=fixed");
    g_assert_cmpint(truncate(image_path, DISK_SIZE + 40 * MiB), ==, 0);
    node.length = DISK_SIZE + 40 * MiB;
    for (int mode = PREALLOC_MODE_FALLOC; mode <= PREALLOC_MODE_FULL; mode++) {
        uint64_t before = file_space(image_path);

        blk = open_image(image_path, BDRV_O_RDWR | BDRV_O_RESIZE);
        g_assert_cmpint(blk_truncate(blk, blk_getlength(blk) + 8 * MiB, false,
                                     mode, 0, &error_abort), ==, 0);
        g_assert_cmpint(file_space(image_path), >=, before + 8 * MiB);
        check_image(blk, 0);
        blk_unref(blk);
    }
}

/*
 * A fixed image gets its new blocks, and there is no space for the entry with
 * the new size: the blocks are free again, for the next growth or to be cut.
 */
static void test_growth_undone(void)
{
    for (int again = 0; again < 2; again++) {
        BlockBackend *blk;
        uint64_t size;

        create_image("block_size=1M,subformat=fixed");
        size = file_size(image_path);
        blk = open_image(image_path, BDRV_O_RDWR);
        g_assert_cmpint(write_fill(blk, 0, 512, 1), >=, 0);
        flush(blk);
        /* Behind an empty entry and one with a page of the BAT */
        node.full_at = MiB + 12 * KiB;
        g_assert_cmpint(blk_truncate(blk, DISK_SIZE + 8 * MiB, false,
                                     PREALLOC_MODE_OFF, 0, NULL), ==, -ENOSPC);
        node.full_at = 0;
        flush(blk);
        g_assert_cmpint(blk_getlength(blk), ==, DISK_SIZE);
        if (again) {
            g_assert_cmpint(blk_truncate(blk, DISK_SIZE + 8 * MiB, false,
                                         PREALLOC_MODE_OFF, 0, &error_abort),
                            ==, 0);
        }
        check_fill(blk, 512, DISK_SIZE - 512, 0);
        check_image(blk, 0);
        blk_unref(blk);
        g_assert_cmpint(file_size(image_path), ==, size + again * 8 * MiB);
    }
}

/* The image opens as one of a disk of @bytes bytes, without an error in it. */
static void check_size(const char *path, uint64_t bytes)
{
    BlockBackend *blk = open_image(path, BDRV_O_RDWR);

    g_assert_cmpint(blk_getlength(blk), ==, bytes);
    check_image(blk, 0);
    blk_unref(blk);
}

/*
 * A page of the BAT can't be put in place, so others wait as well, until there
 * are so many that no change is taken any more.  A change of the disk's size
 * has not been made, or is in the log, as its caller is told.
 */
static void test_not_in_place(void)
{
    const uint64_t page = 512 * MiB, larger = 60 * GiB;
    unsigned failed = 0, count;

    /* A cache of 64 pages may have half of them waiting. */
    for (count = 28; count < 34; count++) {
        uint64_t size = 40 * page;
        BlockBackend *blk;
        BDRVVHDXState *s;

        create_sized("block_size=1M", size);
        blk = open_image(image_path, BDRV_O_RDWR);
        s = blk_bs(blk)->opaque;
        WITH_VHDX_LOCK_GUARD(s) {
            vhdx_cache_set_limit(s, VHDX_CACHE_SIZE_MIN);
            node.full_at = s->bat.offset;
        }
        for (unsigned i = 0; i < count; i++) {
            g_assert_cmpint(write_fill(blk, i * page, 4096, i + 1), >=, 0);
        }
        flush(blk);
        if (blk_truncate(blk, larger, false, PREALLOC_MODE_OFF, 0, NULL) < 0) {
            failed++;
        } else {
            size = larger;
        }
        copy_image();
        check_size(copy_path, size);
        node.full_at = 0;
        for (unsigned i = 0; i < count; i++) {
            g_assert_cmpint(write_fill(blk, i * page + MiB, 4096, i + 1), >=,
                            0);
        }
        flush(blk);
        copy_image();
        check_size(copy_path, size);
        for (unsigned i = 0; i < count; i++) {
            check_fill(blk, i * page + MiB, 4096, i + 1);
        }
        check_image(blk, 0);
        blk_unref(blk);
    }
    g_assert_cmpint(failed, >, 0);
    g_assert_cmpint(failed, <, 6);
}

/* -- Holes -- */

static int status(BlockBackend *blk, int64_t offset, int64_t *n)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    return bdrv_block_status(blk_bs(blk), offset, BLOCK, n, NULL, NULL) &
           (BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO);
}

/* The disk has sectors of 4096 bytes, and the node tells of holes elsewhere. */
static void test_holes_in_sectors(void)
{
    BlockBackend *blk;
    int64_t n;

    create_image("block_size=1M,logical_sector_size=4096");
    blk = open_image(image_path, BDRV_O_RDWR);
    write_blocks(blk, 0, 1);
    node.told = 10 * KiB;
    g_assert_cmpint(status(blk, 0, &n), ==,
                    BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO);
    g_assert_cmpint(n, <, 10 * KiB);
    /* No piece has a sector, which then is not known to be one. */
    node.told = 1 * KiB;
    g_assert_cmpint(status(blk, 0, &n), ==, BDRV_BLOCK_DATA);
    g_assert_cmpint(n, ==, 4 * KiB);
    node.told = 0;
    check_blocks(blk, 0, 1);
    blk_unref(blk);
}

int main(int argc, char **argv)
{
    int ret;

    test_node_init();
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vhdx/space/device-grows", test_device_grows);
    g_test_add_func("/vhdx/space/growth-fails", test_growth_fails);
    g_test_add_func("/vhdx/space/growth-effect", test_growth_effect);
    g_test_add_func("/vhdx/space/growth-seen", test_growth_seen);
    g_test_add_func("/vhdx/space/entry-landed", test_entry_landed);
    g_test_add_func("/vhdx/space/create-effect", test_create_effect);
    g_test_add_func("/vhdx/space/create-longer", test_create_longer);
    g_test_add_func("/vhdx/space/no-preallocation", test_no_preallocation);
    g_test_add_func("/vhdx/space/fix-no-preallocation",
                    test_fix_no_preallocation);
    g_test_add_func("/vhdx/space/preallocation-inside",
                    test_preallocation_inside);
    g_test_add_func("/vhdx/space/growth-undone", test_growth_undone);
    g_test_add_func("/vhdx/space/not-in-place", test_not_in_place);
    g_test_add_func("/vhdx/space/holes-in-sectors", test_holes_in_sectors);
    ret = g_test_run();
    test_node_finish();
    return ret;
}
