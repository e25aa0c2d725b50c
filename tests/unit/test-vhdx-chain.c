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
#include "block/vhdx/state.h"
#include "vhdx-test-cut.h"

/* What there is to be made of a cut, beside nothing and all of it */
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

/* The Virtual Disk ID that the parent gets, with other physical sectors */
static VHDXGuid amended_id;

/* How many cuts have left a parent with the old ones, and with the new ones */
static unsigned amended[2];

/* The parent has both of the old ones, or both of the new ones. */
static void check_amended(BlockDriverState *parent)
{
    BDRVVHDXState *s = parent->opaque;
    bool new = vhdx_guid_equal(&s->params.disk_id, &amended_id);

    g_assert_cmpuint(s->params.physical_sector, ==, new ? 512 : 4096);
    amended[new]++;
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
    if (blk_bs(blk)->backing) {
        check_amended(blk_bs(blk)->backing->bs);
    }
    blk_unref(blk);
}

/* Whether a cut may leave something in @how that is not in @seen; note it. */
static bool cut_is_new(GHashTable *seen, const Cut *cut, int how)
{
    const State *p = &cut->files[PARENT], *c = &cut->files[CHILD];
    GBytes *parent = how & 1 ? p->now : p->stable;
    GBytes *child = how & 2 ? c->now : c->stable;

    if (how >= 4) {
        return p->now != p->stable || c->now != c->stable;
    }
    return g_hash_table_add(seen, g_strdup_printf("%p %p", parent, child));
}

/* End it, and look at each cut, with some @mixtures. */
static void check_cuts(BlockBackend *blk, const Content *content, int mixtures)
{
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal,
                                                       g_free, NULL);
    GRand *rand = g_rand_new_with_seed(5);

    check_content(blk, content);
    blk_unref(blk);
    cut_note();
    g_test_message("%u cuts", cuts->len);
    g_assert_cmpuint(cuts->len, >, 4);
    for (guint i = 0; i < cuts->len; i++) {
        Cut *cut = &g_array_index(cuts, Cut, i);

        for (int how = 0; how < 4 + mixtures; how++) {
            Survive parent = how >= 4 ? SOME : how & 1 ? ALL : NONE;
            Survive child = how >= 4 ? SOME : how & 2 ? ALL : NONE;

            if (!cut_is_new(seen, cut, how)) {
                continue;
            }
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
    check_cuts(blk, &content, MIXTURES);
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
    check_cuts(blk, &content, MIXTURES);
}

/*
 * A header that can't be written is in the file all the same, each of both
 * images in turn.  The guest writes what it has, and the merge is done again.
 */
static void test_header_fails_commit(void)
{
    unsigned left = 0;

    for (unsigned i = 1; !left; i++) {
        Content content;
        BlockBackend *blk = make_chain(&content, false, 0);

        fail_header = i;
        (void)bdrv_commit(blk_bs(blk));
        left = fail_header;
        fail_header = 0;
        fill_write(blk, &content, 1, false, 21);
        g_assert_cmpint(bdrv_commit(blk_bs(blk)), ==, 0);
        check_cuts(blk, &content, 0);
    }
}

/* What comes after a header that has failed, below a job that goes on */
typedef enum Next {
    AGAIN,                      /* the same again */
    WRITE,                      /* the guest writes to the child */
    NAME,                       /* the child, written to before, names it */
} Next;

/* The same while the parent stays writable, and @next comes: it works. */
static void header_fails_in_job(Next next)
{
    unsigned left = 0;

    for (unsigned i = 1; !left; i++) {
        Content content;
        BlockBackend *blk = make_chain(&content, false, 0);
        BlockBackend *to = blk_new(qemu_get_aio_context(), BLK_PERM_WRITE |
                                   BLK_PERM_RESIZE, BLK_PERM_ALL);
        BlockDriverState *base = bdrv_find_node("parent");

        if (next == NAME) {
            fill_write(blk, &content, 1, false, 21);
        }
        bdrv_reopen_set_read_only(base, false, &error_abort);
        blk_insert_bs(to, base, &error_abort);
        fail_header = i;
        (void)write_fill(to, 2 * BLOCK, BLOCK, 22);
        left = fail_header;
        fail_header = 0;
        if (next == NAME) {
            g_assert_cmpint(bdrv_change_backing_file(blk_bs(blk), names[PARENT],
                                                     "vhdx", false), ==, 0);
        } else if (next == WRITE) {
            fill_write(blk, &content, 1, false, 21);
        }
        g_assert_cmpint(blk_flush(blk), ==, 0);
        g_assert_cmpint(write_fill(to, 2 * BLOCK, BLOCK, 22), >=, 0);
        fill_write(blk, &content, 1, false, 21);
        blk_unref(to);
        check_cuts(blk, &content, 0);
    }
}

static void test_header_fails_again(void)
{
    header_fails_in_job(AGAIN);
}

static void test_header_fails_write(void)
{
    header_fails_in_job(WRITE);
}

static void test_header_fails_name(void)
{
    header_fails_in_job(NAME);
}

/* An image whose header has failed gets an overlay, and stays writable. */
static void test_header_fails_overlay(void)
{
    unsigned left = 0;

    for (unsigned i = 1; !left; i++) {
        BlockBackend *base, *blk;
        QDict *backing;
        Content content;

        make_parent(&content, false);
        create(CHILD, names[PARENT]);
        base = blk_new_open(NULL, NULL, noted(PARENT), BDRV_O_RDWR,
                            &error_abort);
        blk = open_chain(BDRV_O_NO_BACKING);
        cuts_begin();
        fail_header = i;
        (void)write_fill(base, 2 * BLOCK, BLOCK, content.block[2]);
        left = fail_header;
        fail_header = 0;
        cuts_end();
        backing = qdict_new();
        qdict_put_str(backing, "backing", bdrv_get_node_name(blk_bs(base)));
        bdrv_reopen(blk_bs(blk), backing, true, &error_abort);
        fill_write(blk, &content, 1, false, 21);
        g_assert_cmpint(blk_flush(blk), ==, 0);
        /* What it was given for good is there. */
        cuts_begin();
        fill_write(blk, &content, 1, false, 21);
        g_assert_cmpint(blk_flush(blk), ==, 0);
        blk_unref(base);
        check_cuts(blk, &content, 0);
    }
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
    check_cuts(blk, &content, MIXTURES);
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
    check_cuts(chain, &content, MIXTURES);
}

/* The child becomes an image without a parent, which had only zeros. */
static void test_flatten(void)
{
    Content content;
    BlockBackend *blk = make_chain(&content, true, 0);

    g_assert_cmpint(bdrv_change_backing_file(blk_bs(blk), NULL, NULL, false),
                    ==, 0);
    check_cuts(blk, &content, MIXTURES);
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
    check_cuts(blk, &content, MIXTURES);
}

/* The parent alone gets another identity and other physical sectors. */
static void test_amend(void)
{
    BlockBackend *blk;
    Content content;

    make_parent(&content, false);
    create(CHILD, names[PARENT]);
    blk = blk_new_open(NULL, NULL, noted(PARENT), BDRV_O_RDWR, &error_abort);
    cuts_begin();
    cut_writes = 1;
    amend_image(blk, "disk_id=new,physical_sector_size=512", &error_abort);
    amended_id = ((BDRVVHDXState *)blk_bs(blk)->opaque)->params.disk_id;
    amended[false] = amended[true] = 0;
    blk_unref(blk);
    cut_writes = 0;
    check_cuts(open_chain(0), &content, MIXTURES);
    g_assert_cmpuint(amended[false], >, 0);
    g_assert_cmpuint(amended[true], >, 0);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    test_cut_init();
    g_test_add_func("/vhdx/chain/commit", test_commit);
    g_test_add_func("/vhdx/chain/commit-again", test_commit_again);
    g_test_add_func("/vhdx/chain/header-fails/commit",
                    test_header_fails_commit);
    g_test_add_func("/vhdx/chain/header-fails/again", test_header_fails_again);
    g_test_add_func("/vhdx/chain/header-fails/write", test_header_fails_write);
    g_test_add_func("/vhdx/chain/header-fails/name", test_header_fails_name);
    g_test_add_func("/vhdx/chain/header-fails/overlay",
                    test_header_fails_overlay);
    g_test_add_func("/vhdx/chain/change-parent", test_change_parent);
    g_test_add_func("/vhdx/chain/change-parent-alone",
                    test_change_parent_alone);
    g_test_add_func("/vhdx/chain/flatten", test_flatten);
    g_test_add_func("/vhdx/chain/get-parent", test_get_parent);
    g_test_add_func("/vhdx/chain/amend", test_amend);
    ret = g_test_run();
    test_cut_finish();
    return ret;
}
