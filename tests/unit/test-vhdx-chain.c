/*
 * VHDX unit tests: the order in which a chain is changed
 *
 * A parent and its child are changed as commands do it.  Whatever a power cut
 * leaves of both files, at any of the flushes, opens as a chain, and the child
 * reads the same, as all of these commands leave its content alone.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "vhdx-test-cut.h"

/* What there is to be made of each cut, beside nothing and all of it */
#define MIXTURES    3

/* The child's content: what each block is full of, but for its first page */
typedef struct Content {
    uint8_t block[DISK_SIZE / BLOCK];
    uint8_t first[DISK_SIZE / BLOCK];
} Content;

static void create(int file, const char *backing)
{
    g_autofree char *options =
        g_strdup_printf("block_size=%d,block_state_zero=off", (int)BLOCK);

    bdrv_img_create(paths[file], "vhdx", backing, backing ? "vhdx" : NULL,
                    options, DISK_SIZE, BDRV_O_RDWR, true, &error_abort);
}

/* The options of an image whose flushes are noted */
static QDict *noted(int file)
{
    QDict *options = qdict_new();

    qdict_put_str(options, "driver", "vhdx");
    qdict_put_str(options, "file.driver", "vhdx-test-cut");
    qdict_put_str(options, "file.file.driver", "file");
    qdict_put_str(options, "file.file.filename", paths[file]);
    return options;
}

static BlockBackend *open_chain(int flags)
{
    QDict *options = noted(CHILD);
    BlockDriverState *parent = NULL;
    BlockBackend *blk;

    if (flags & BDRV_O_NO_BACKING) {
        qdict_put_null(options, "backing");
    } else {
        QDict *below = noted(PARENT);

        qdict_put_str(below, "node-name", "parent");
        parent = bdrv_open(NULL, NULL, below, 0, &error_abort);
        qdict_put_str(options, "backing", "parent");
    }
    blk = blk_new_open(NULL, NULL, options, BDRV_O_RDWR, &error_abort);
    bdrv_unref(parent);
    return blk;
}

/* Write to an image and put that into @content. */
static void fill_write(BlockBackend *blk, Content *content, int block,
                       bool whole, int fill)
{
    size_t bytes = whole ? BLOCK : PAGE;

    g_assert_cmpint(write_fill(blk, block * BLOCK, bytes, fill), >=, 0);
    content->first[block] = fill;
    if (whole) {
        content->block[block] = fill;
    }
}

/* Make the parent: it has something in some blocks, or is empty. */
static void make_parent(Content *content, bool empty)
{
    QDict *options = qdict_new();
    BlockBackend *blk;

    memset(content, 0, sizeof(*content));
    create(PARENT, NULL);
    qdict_put_str(options, "driver", "vhdx");
    blk = blk_new_open(paths[PARENT], NULL, options, BDRV_O_RDWR, &error_abort);
    for (int i = 0; i < 6 && !empty; i++) {
        fill_write(blk, content, i, true, i + 1);
    }
    blk_unref(blk);
}

/*
 * Let the other image have something in some blocks.  It is opened with @flags,
 * and cuts are noted from here on.
 */
static BlockBackend *fill_child(Content *content, int flags_before, int flags)
{
    BlockBackend *blk = open_chain(flags_before);

    fill_write(blk, content, 1, false, 21);
    fill_write(blk, content, 2, true, 22);
    fill_write(blk, content, 6, false, 26);
    fill_write(blk, content, 7, true, 27);
    blk_unref(blk);
    blk = open_chain(flags);
    cuts_begin();
    return blk;
}

static BlockBackend *make_chain(Content *content, bool empty, int flags)
{
    make_parent(content, empty);
    create(CHILD, names[PARENT]);
    return fill_child(content, 0, flags);
}

static void check_content(BlockBackend *blk, const Content *content)
{
    for (int i = 0; i < DISK_SIZE / BLOCK; i++) {
        check_fill(blk, i * BLOCK, PAGE, content->first[i]);
        check_fill(blk, i * BLOCK + PAGE, BLOCK - PAGE, content->block[i]);
    }
}

/* What a cut has left is a chain, or an image alone, with this content. */
static void check_files(const Content *content)
{
    QDict *options = qdict_new();
    BlockBackend *blk;

    qdict_put_str(options, "driver", "vhdx");
    qdict_put_bool(options, "force-share", true);
    blk = blk_new_open(cut_paths[CHILD], NULL, options, 0, &error_abort);
    check_content(blk, content);
    blk_unref(blk);
}

/* End it, and look at each cut. */
static void check_cuts(BlockBackend *blk, const Content *content)
{
    GRand *rand = g_rand_new_with_seed(5);

    check_content(blk, content);
    blk_unref(blk);
    cut_note();
    g_test_message("%u cuts", cuts->len);
    g_assert_cmpuint(cuts->len, >, 4);
    for (guint i = 0; i < cuts->len; i++) {
        Cut *cut = &g_array_index(cuts, Cut, i);

        for (int how = 0; how < 4 + MIXTURES; how++) {
            Survive parent = how >= 4 ? SOME : how & 1 ? ALL : NONE;
            Survive child = how >= 4 ? SOME : how & 2 ? ALL : NONE;

            cut_make(cut_paths[PARENT], &cut->files[PARENT], parent, rand);
            cut_make(cut_paths[CHILD], &cut->files[CHILD], child, rand);
            check_files(content);
        }
    }
    g_rand_free(rand);
    cuts_end();
    for (int i = 0; i < FILES; i++) {
        unlink(paths[i]);
    }
}

/* Merged into the parent, which is flushed before the child is made empty */
static void test_commit(void)
{
    Content content;
    BlockBackend *blk = make_chain(&content, false, 0);

    g_assert_cmpint(bdrv_commit(blk_bs(blk)), ==, 0);
    check_cuts(blk, &content);
}

/* The same again, with writes in between */
static void test_commit_again(void)
{
    Content content;
    BlockBackend *blk = make_chain(&content, false, 0);

    g_assert_cmpint(bdrv_commit(blk_bs(blk)), ==, 0);
    cuts_end();
    fill_write(blk, &content, 3, false, 33);
    fill_write(blk, &content, 4, true, 34);
    g_assert_cmpint(blk_flush(blk), ==, 0);
    cuts_begin();
    g_assert_cmpint(bdrv_commit(blk_bs(blk)), ==, 0);
    check_cuts(blk, &content);
}

/* The child gets a new locator, for the parent that it has. */
static void test_change_parent(void)
{
    Content content;
    BlockBackend *blk = make_chain(&content, false, 0);

    for (int i = 0; i < 3; i++) {
        g_assert_cmpint(bdrv_change_backing_file(blk_bs(blk), i & 1 ?
                                                 names[PARENT] : paths[PARENT],
                                                 "vhdx", false), ==, 0);
    }
    check_cuts(blk, &content);
}

/* The same without that at hand */
static void test_change_parent_alone(void)
{
    Content content;
    BlockBackend *blk = make_chain(&content, false, BDRV_O_NO_BACKING), *chain;

    for (int i = 0; i < 3; i++) {
        g_assert_cmpint(bdrv_change_backing_file(blk_bs(blk), i & 1 ?
                                                 names[PARENT] : paths[PARENT],
                                                 "vhdx", false), ==, 0);
    }
    blk_unref(blk);
    chain = open_chain(0);
    check_cuts(chain, &content);
}

/* The child becomes an image without a parent, which had only zeros. */
static void test_flatten(void)
{
    Content content;
    BlockBackend *blk = make_chain(&content, true, 0);

    g_assert_cmpint(bdrv_change_backing_file(blk_bs(blk), NULL, NULL, false),
                    ==, 0);
    check_cuts(blk, &content);
}

/* An image without a parent gets one, and reads as before. */
static void test_get_parent(void)
{
    Content content;
    BlockBackend *blk;

    make_parent(&content, false);
    create(CHILD, NULL);
    memset(&content, 0, sizeof(content));
    blk = fill_child(&content, BDRV_O_NO_BACKING, BDRV_O_NO_BACKING);
    g_assert_cmpint(bdrv_change_backing_file(blk_bs(blk), names[PARENT], "vhdx",
                                             false), ==, 0);
    check_content(blk, &content);
    /* Another, for a child. */
    g_assert_cmpint(bdrv_change_backing_file(blk_bs(blk), paths[PARENT], "vhdx",
                                             false), ==, 0);
    blk_unref(blk);
    blk = open_chain(0);
    check_cuts(blk, &content);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    test_cut_init();
    g_test_add_func("/vhdx/chain/commit", test_commit);
    g_test_add_func("/vhdx/chain/commit-again", test_commit_again);
    g_test_add_func("/vhdx/chain/change-parent", test_change_parent);
    g_test_add_func("/vhdx/chain/change-parent-alone",
                    test_change_parent_alone);
    g_test_add_func("/vhdx/chain/flatten", test_flatten);
    g_test_add_func("/vhdx/chain/get-parent", test_get_parent);
    ret = g_test_run();
    test_cut_finish();
    return ret;
}
