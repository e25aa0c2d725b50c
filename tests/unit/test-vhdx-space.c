/*
 * VHDX unit tests: nodes that grow and shrink in their own ways
 *
 * A filter of our own below the image stands for such a node: one of a length
 * that only others change, one that grows but does not shrink, one whose
 * operations fail although they take effect, and so on.  It can count requests.
 *
 * A copy of the file, made while the image is open, is what a kill would leave.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "block/vhdx/create.h"
#include "vhdx-test-request.h"

#define BLOCK       MiB
#define DISK_SIZE   (64 * MiB)
#define LOG_AT      MiB
#define PAGE_BLOCKS 512             /* that a page of the BAT tells of */

static char *test_dir;
static char *image_path;
static char *copy_path;

/* What the node does. */
static struct {
    uint64_t length;                /* that it can't change; 0: the file's */
    int grow;                       /* negative errno for getting longer */
    int shrink;                     /* ... and shorter */
    int prealloc;                   /* ... and for any preallocation */
    uint64_t full_at;               /* a write there finds no space; 0: none */
    bool log_lost;                  /* writes to the log seem to fail */
    bool effect;                    /* these take effect all the same */
    bool grows;                     /* nobody is to make it shorter now */
    bool cut;                       /* it got shorter since its last flush */
    unsigned punched;               /* number of places given back to it */
    bool hold_punch;                /* these wait ... */
    Coroutine *held_punch;          /* ... and this one does */
} node;

static int coroutine_fn GRAPH_RDLOCK
node_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
            QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    return bdrv_co_preadv(bs->file, offset, bytes, qiov, flags);
}

static int coroutine_fn GRAPH_RDLOCK
node_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
             QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    int ret;

    g_assert_true(!node.length || offset + bytes <= node.length);
    if (node.full_at && node.full_at - offset < bytes) {
        return -ENOSPC;
    }
    ret = bdrv_co_pwritev(bs->file, offset, bytes, qiov, flags);
    return node.log_lost && offset >= LOG_AT && offset < LOG_AT + MiB ? -EIO :
           ret;
}

/* A place is given back to the node. */
static void coroutine_fn node_punched(void)
{
    node.punched++;
    if (node.hold_punch) {
        node.held_punch = qemu_coroutine_self();
        qemu_coroutine_yield();
        node.held_punch = NULL;
    }
}

static int coroutine_fn GRAPH_RDLOCK
node_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                   BdrvRequestFlags flags)
{
    if (flags & BDRV_REQ_NO_FALLBACK) {
        node_punched();
    }
    return bdrv_co_pwrite_zeroes(bs->file, offset, bytes, flags);
}

static int coroutine_fn GRAPH_RDLOCK
node_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    node_punched();
    return bdrv_co_pdiscard(bs->file, offset, bytes);
}

static int64_t coroutine_mixed_fn GRAPH_RDLOCK
node_getlength(BlockDriverState *bs)
{
    return node.length ?: bdrv_co_getlength(bs->file->bs);
}

static int coroutine_fn GRAPH_RDLOCK
node_truncate(BlockDriverState *bs, int64_t offset, bool exact,
              PreallocMode prealloc, BdrvRequestFlags flags, Error **errp)
{
    int64_t old = node_getlength(bs);
    int ret = offset > old ? node.grow : offset < old ? node.shrink : 0;

    g_assert_true(!node.grows || offset >= old);
    if (node.length) {
        return offset > old || exact ? -EINVAL : 0;
    }
    if (prealloc != PREALLOC_MODE_OFF && node.prealloc < 0) {
        error_setg(errp, "No such mode here");
        return node.prealloc;
    }
    if (ret == 0 || node.effect) {
        int done = bdrv_co_truncate(bs->file, offset, exact, prealloc, flags,
                                    errp);

        node.cut |= done == 0 && offset < old;
        if (ret == 0 || done < 0) {
            return done;
        }
    }
    error_setg(errp, "This node does not do that");
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK node_flush(BlockDriverState *bs)
{
    node.cut = false;
    return bdrv_co_flush(bs->file->bs);
}

static int node_open(BlockDriverState *bs, QDict *options, int flags,
                     Error **errp)
{
    int ret = bdrv_open_file_child(NULL, options, "file", bs, errp);

    if (ret < 0) {
        return ret;
    }
    bs->supported_zero_flags = BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK;
    bs->supported_truncate_flags = BDRV_REQ_ZERO_WRITE;
    return 0;
}

static int node_reopen_prepare(BDRVReopenState *state,
                               BlockReopenQueue *queue, Error **errp)
{
    return 0;
}

static BlockDriver bdrv_node = {
    .format_name            = "vhdx-test-node",
    .is_filter              = true,
    .bdrv_open              = node_open,
    .bdrv_reopen_prepare    = node_reopen_prepare,
    .bdrv_child_perm        = bdrv_default_perms,
    .bdrv_co_getlength      = node_getlength,
    .bdrv_co_preadv         = node_preadv,
    .bdrv_co_pwritev        = node_pwritev,
    .bdrv_co_pwrite_zeroes  = node_pwrite_zeroes,
    .bdrv_co_pdiscard       = node_pdiscard,
    .bdrv_co_truncate       = node_truncate,
    .bdrv_co_flush          = node_flush,
};

static void create_sized(const char *options, uint64_t size)
{
    memset(&node, 0, sizeof(node));
    bdrv_img_create(image_path, "vhdx", NULL, NULL, (char *)options, size,
                    BDRV_O_RDWR, true, &error_abort);
}

static void create_image(const char *options)
{
    create_sized(options, DISK_SIZE);
}

static BlockBackend *open_image(const char *path, int flags)
{
    QDict *options = qdict_new();
    bool writable = flags & BDRV_O_RDWR;

    qdict_put_str(options, "driver", "vhdx");
    qdict_put_str(options, "discard", "unmap");
    qdict_put_str(options, "file.driver", "vhdx-test-node");
    qdict_put_str(options, "file.file.driver", "file");
    qdict_put_str(options, "file.file.filename", path);
    if (!writable) {
        qdict_put_bool(options, "force-share", true);
    }
    return blk_new_open(NULL, NULL, options,
                        flags | (writable ? BDRV_O_RESIZE : 0) | BDRV_O_UNMAP |
                        BDRV_O_NO_FLUSH,
                        &error_abort);
}

/* Write the blocks from @first to @end - 1, each in full of its number. */
static void write_blocks(BlockBackend *blk, int first, int end)
{
    for (int i = first; i < end; i++) {
        g_assert_cmpint(write_fill(blk, i * BLOCK, BLOCK, i + 1), >=, 0);
    }
}

static void check_blocks(BlockBackend *blk, int first, int end)
{
    for (int i = first; i < end; i++) {
        check_fill(blk, i * BLOCK, BLOCK, i + 1);
    }
}

static void flush(BlockBackend *blk)
{
    g_assert_cmpint(blk_flush(blk), ==, 0);
}

static uint64_t file_size(const char *path)
{
    struct stat st;

    g_assert_cmpint(stat(path, &st), ==, 0);
    return st.st_size;
}

/* Keep the file as it is, in a copy. */
static void copy_image(void)
{
    g_autofree char *content = NULL;
    gsize length;

    g_assert_true(g_file_get_contents(image_path, &content, &length, NULL));
    g_assert_true(g_file_set_contents(copy_path, content, length, NULL));
}

/* What a kill would have left opens, and holds these blocks. */
static void check_copy(int first, int end)
{
    BlockBackend *blk = open_image(copy_path, 0);

    check_blocks(blk, first, end);
    blk_unref(blk);
}

static BdrvCheckResult check_image(BlockBackend *blk, BdrvCheckMode fix)
{
    BdrvCheckResult result = { 0 };

    g_assert_cmpint(bdrv_check(blk_bs(blk), &result, fix), ==, 0);
    g_assert_cmpint(result.check_errors, ==, 0);
    g_assert_cmpint(result.corruptions, ==, 0);
    return result;
}

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
static int create_on_node(uint64_t size, PreallocMode prealloc)
{
    BlockdevRef ref = {
        .type = QTYPE_QSTRING,
        .u.reference = (char *)"node",
    };
    Creation c = {
        .options.driver = BLOCKDEV_DRIVER_VHDX,
        .options.u.vhdx = {
            .file = &ref,
            .size = size,
            .has_subformat = true,
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
        QDict *options = qdict_new();
        BlockBackend *blk;
        gsize length;

        memset(&node, 0, sizeof(node));
        node.grow = -EIO;
        node.effect = true;
        g_assert_true(g_file_set_contents(image_path, content, old, NULL));
        qdict_put_str(options, "driver", "vhdx-test-node");
        qdict_put_str(options, "node-name", "node");
        qdict_put_str(options, "file.driver", "file");
        qdict_put_str(options, "file.filename", image_path);
        blk = blk_new_open(NULL, NULL, options, BDRV_O_RDWR | BDRV_O_RESIZE,
                           &error_abort);
        g_assert_cmpint(create_on_node(16 * MiB, modes[i]), ==, -EIO);
        blk_unref(blk);
        g_assert_true(g_file_get_contents(image_path, &now, &length, NULL));
        g_assert_cmpmem(now, length, content, old);
    }
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

/* -- Cuts -- */

static const int cut_errors[] = { -EINVAL, -EOPNOTSUPP, -EPERM, -EIO, -EACCES };

static void discard(BlockBackend *blk, int first, int end)
{
    g_assert_cmpint(discard_wait(blk, first * BLOCK, (end - first) * BLOCK),
                    ==, 0);
}

/*
 * A cut in use is flushed before anything counts on zeros behind the new end:
 * else a power cut may keep what the file gains there, and old bytes in it.
 */
static void test_cut_flushed(void)
{
    BlockBackend *blk;
    uint64_t size;

    create_image("block_size=1M");
    blk = open_image(image_path, BDRV_O_RDWR);
    write_blocks(blk, 0, 40);
    flush(blk);
    size = file_size(image_path);
    discard(blk, 2, 40);
    flush(blk);
    g_assert_cmpuint(file_size(image_path), <, size);
    g_assert_false(node.cut);
    blk_unref(blk);
}

/*
 * A cut in use fails, with or without effect: what is open is used on, what a
 * kill leaves opens, and old bytes do not come to light.
 */
static void cut_fails(int error, bool effect)
{
    BlockBackend *blk;

    create_image("block_size=1M");
    blk = open_image(image_path, BDRV_O_RDWR);
    write_blocks(blk, 0, 40);
    flush(blk);
    node.shrink = error;
    node.effect = effect;
    discard(blk, 2, 40);
    flush(blk);
    g_assert_cmpint(write_fill(blk, 0, 512, 1), >=, 0);
    flush(blk);
    copy_image();
    check_copy(0, 2);
    /* Space for more than ever before, each block with but a sector in it */
    for (int i = 2; i < 60; i++) {
        g_assert_cmpint(write_fill(blk, i * BLOCK, 512, i + 1), >=, 0);
        check_fill(blk, i * BLOCK + 512, BLOCK - 512, 0);
    }
    flush(blk);
    check_blocks(blk, 0, 2);
    blk_unref(blk);

    node.shrink = 0;
    blk = open_image(image_path, BDRV_O_RDWR);
    check_blocks(blk, 0, 2);
    for (int i = 2; i < 60; i++) {
        check_fill(blk, i * BLOCK, 512, i + 1);
        check_fill(blk, i * BLOCK + 512, BLOCK - 512, 0);
    }
    check_image(blk, 0);
    blk_unref(blk);
}

static void test_cut_fails(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(cut_errors); i++) {
        cut_fails(cut_errors[i], false);
        cut_fails(cut_errors[i], true);
    }
}

/* Leave an image with four blocks, a log, and junk behind the last block. */
static void leave_tail(void)
{
    g_autofree char *junk = g_malloc(20 * MiB);
    BlockBackend *blk;
    FILE *file;

    create_image("block_size=1M");
    blk = open_image(image_path, BDRV_O_RDWR);
    write_blocks(blk, 0, 4);
    flush(blk);
    copy_image();
    blk_unref(blk);
    g_assert_cmpint(rename(copy_path, image_path), ==, 0);
    g_assert_cmpint(file_size(image_path), >=, 16 * MiB);

    memset(junk, 0x77, 20 * MiB);
    file = fopen(image_path, "r+");
    g_assert_nonnull(file);
    g_assert_cmpint(fseek(file, 8 * MiB, SEEK_SET), ==, 0);
    g_assert_cmpint(fwrite(junk, 1, 20 * MiB, file), ==, 20 * MiB);
    g_assert_cmpint(fclose(file), ==, 0);
}

/* A tail that can't be cut hinders nothing, and is not taken for zeros. */
static void test_tail_stays(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(cut_errors); i++) {
        BdrvCheckResult result;
        BlockBackend *blk;

        leave_tail();
        blk = open_image(image_path, BDRV_O_RDWR);
        node.shrink = cut_errors[i];
        /* The first write, which replays the log */
        for (int n = 4; n < 40; n++) {
            g_assert_cmpint(write_fill(blk, n * BLOCK, 512, n + 1), >=, 0);
            check_fill(blk, n * BLOCK + 512, BLOCK - 512, 0);
        }
        check_blocks(blk, 0, 4);
        g_assert_cmpint(discard_wait(blk, 4 * BLOCK, 36 * BLOCK), ==, 0);
        /* What a migration ends with, and what begins on the other side */
        blk_set_force_allow_inactivate(blk);
        g_assert_cmpint(bdrv_inactivate_all(), ==, 0);
        bdrv_activate_all(&error_abort);
        check_blocks(blk, 0, 4);
        g_assert_cmpint(write_fill(blk, 4 * BLOCK, 512, 5), >=, 0);
        blk_set_perm(blk, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL, &error_abort);
        bdrv_reopen_set_read_only(blk_bs(blk), true, &error_abort);
        check_blocks(blk, 0, 4);
        blk_unref(blk);

        leave_tail();
        node.shrink = cut_errors[i];
        blk = open_image(image_path, BDRV_O_RDWR | BDRV_O_CHECK);
        result = check_image(blk, BDRV_FIX_LEAKS);
        g_assert_cmpint(result.leaks, >, 0);
        g_assert_cmpint(result.leaks_fixed, ==, 0);
        /* qemu-img looks again after a repair, and tells what that finds. */
        g_assert_cmpint(result.corruptions_fixed, >, 0);
        result = check_image(blk, 0);
        g_assert_cmpint(result.leaks, >, 0);
        node.shrink = 0;
        blk_unref(blk);
    }
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

/* -- Punching -- */

/* Write a sector to each of @count new blocks, and discard every other one. */
static BlockBackend *make_holes(int count)
{
    BlockBackend *blk;

    create_sized("block_size=1M", (uint64_t)(count + 100) * BLOCK);
    blk = open_image(image_path, BDRV_O_RDWR);
    for (int i = 0; i < count; i++) {
        g_assert_cmpint(write_fill(blk, i * BLOCK, 512, 1 + i % 255), >=, 0);
    }
    flush(blk);
    g_assert_cmpint(node.punched, ==, 0);
    for (int i = 1; i < count - 1; i += 2) {
        g_assert_cmpint(discard_wait(blk, i * BLOCK, BLOCK), ==, 0);
    }
    return blk;
}

/*
 * A flush punches no more than its share, also one with nothing else to do.
 * Meanwhile the space can be used, and what is used is not punched later.
 */
static void test_punch_share(void)
{
    const int count = 600;
    BlockBackend *blk = make_holes(count);
    uint64_t size = file_size(image_path);
    unsigned before, flushes = 0;

    do {
        before = node.punched;
        flush(blk);
        g_assert_cmpint(node.punched - before, <=, 64);
        if (!flushes++) {
            for (int i = count; i < count + 100; i++) {
                g_assert_cmpint(write_fill(blk, i * BLOCK, BLOCK, 77), >=, 0);
            }
        }
    } while (node.punched != before);
    /* Of the 100 places that are used again, 64 had been punched before. */
    g_assert_cmpint(node.punched, ==, count / 2 - 1 - 36);
    g_assert_cmpint(file_size(image_path), ==, size);
    blk_unref(blk);
    blk = open_image(image_path, 0);
    for (int i = 0; i < count; i += 2) {
        check_fill(blk, i * BLOCK, 512, 1 + i % 255);
    }
    for (int i = count; i < count + 100; i++) {
        check_fill(blk, i * BLOCK, BLOCK, 77);
    }
    blk_unref(blk);
}

/* Closing has a share as well, and so has a shorter disk. */
static void test_punch_close(void)
{
    BlockBackend *blk = make_holes(9000);

    g_assert_cmpint(blk_truncate(blk, 1000 * BLOCK, true, PREALLOC_MODE_OFF, 0,
                                 &error_abort), ==, 0);
    /* It commits some times. */
    g_assert_cmpint(node.punched, <=, 4 * 64);
    blk_unref(blk);

    blk = make_holes(9000);
    blk_unref(blk);
    g_assert_cmpint(node.punched, >, 1000);
    g_assert_cmpint(node.punched, <=, 64 + 4096);
}

static void flush_ended(void *opaque, int ret)
{
    *(int *)opaque = ret;
}

/* While a place is being punched, others are to be had. */
static void test_punch_held(void)
{
    BlockBackend *blk = make_holes(100);
    int ret = -EINPROGRESS;

    node.hold_punch = true;
    blk_aio_flush(blk, flush_ended, &ret);
    while (!node.held_punch) {
        aio_poll(qemu_get_aio_context(), true);
    }
    for (int i = 100; i < 130; i++) {
        g_assert_cmpint(write_fill(blk, i * BLOCK, BLOCK, 77), >=, 0);
    }
    g_assert_cmpint(ret, ==, -EINPROGRESS);
    node.hold_punch = false;
    aio_co_wake(node.held_punch);
    while (ret == -EINPROGRESS) {
        aio_poll(qemu_get_aio_context(), true);
    }
    g_assert_cmpint(ret, ==, 0);
    for (int i = 100; i < 130; i++) {
        check_fill(blk, i * BLOCK, BLOCK, 77);
    }
    flush(blk);
    for (int i = 0; i < 100; i += 2) {
        check_fill(blk, i * BLOCK, 512, 1 + i % 255);
    }
    blk_unref(blk);
}

int main(int argc, char **argv)
{
    int ret;

    bdrv_init();
    qemu_init_main_loop(&error_abort);
    bdrv_register(&bdrv_node);
    test_dir = g_dir_make_tmp("vhdx-test-XXXXXX", NULL);
    g_assert_nonnull(test_dir);
    image_path = g_build_filename(test_dir, "image.vhdx", NULL);
    copy_path = g_build_filename(test_dir, "copy.vhdx", NULL);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vhdx/space/device-grows", test_device_grows);
    g_test_add_func("/vhdx/space/growth-fails", test_growth_fails);
    g_test_add_func("/vhdx/space/growth-effect", test_growth_effect);
    g_test_add_func("/vhdx/space/growth-seen", test_growth_seen);
    g_test_add_func("/vhdx/space/entry-landed", test_entry_landed);
    g_test_add_func("/vhdx/space/create-effect", test_create_effect);
    g_test_add_func("/vhdx/space/cut-flushed", test_cut_flushed);
    g_test_add_func("/vhdx/space/cut-fails", test_cut_fails);
    g_test_add_func("/vhdx/space/tail-stays", test_tail_stays);
    g_test_add_func("/vhdx/space/no-preallocation", test_no_preallocation);
    g_test_add_func("/vhdx/space/preallocation-inside",
                    test_preallocation_inside);
    g_test_add_func("/vhdx/space/growth-undone", test_growth_undone);
    g_test_add_func("/vhdx/space/punch-share", test_punch_share);
    g_test_add_func("/vhdx/space/punch-close", test_punch_close);
    g_test_add_func("/vhdx/space/punch-held", test_punch_held);
    ret = g_test_run();
    unlink(image_path);
    unlink(copy_path);
    rmdir(test_dir);
    g_free(copy_path);
    g_free(image_path);
    g_free(test_dir);
    return ret;
}
