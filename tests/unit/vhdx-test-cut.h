/*
 * VHDX unit tests: a chain of two that may be cut off at any flush
 *
 * A filter of our own below each image notes what both files hold whenever one
 * of them is flushed, and what of that is stable.  Any mixture of both, page by
 * page, is what a power cut could leave.  It is made from the notes when all is
 * done, in a folder of its own, and opened there.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef TESTS_UNIT_VHDX_TEST_CUT_H
#define TESTS_UNIT_VHDX_TEST_CUT_H

#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "block/block_int.h"
#include "vhdx-test-filter.h"
#include "vhdx-test-request.h"

#define BLOCK       MiB
#define DISK_SIZE   (8 * MiB)
#define PAGE        (4 * KiB)

/* The files, by their names in the folder */
enum { PARENT, CHILD, FILES };
static const char *const names[FILES] = { "parent.vhdx", "child.vhdx" };

static char *test_dir;
static char *cut_dir;
static char *paths[FILES];
static char *cut_paths[FILES];

/* What a file held at some time; the content is shared. */
typedef struct State {
    GBytes *stable;
    GBytes *now;
} State;

/* One for each flush: the files just before it */
typedef struct Cut {
    State files[FILES];
} Cut;

static GArray *cuts;
static State state[FILES];

/* Whether cuts are also noted before each write, or each so many'th one. */
static unsigned cut_writes;
static unsigned cut_writes_seen;

/* The how many'th header to be written fails when it is in its file, or 0. */
static unsigned fail_header;

/* The how many'th write fails when it is in its file, or 0 ... */
static unsigned fail_write;

/* ... or fails for lack of space, with nothing of it in the file ... */
static unsigned fail_full;

/* ... and the how many'th flush, which makes nothing stable. */
static unsigned fail_flush;

static inline GBytes *file_content(const char *path, GBytes *old)
{
    char *data;
    gsize bytes;

    g_assert_true(g_file_get_contents(path, &data, &bytes, NULL));
    if (old && g_bytes_get_size(old) == bytes &&
        !memcmp(g_bytes_get_data(old, NULL), data, bytes)) {
        g_free(data);
        return g_bytes_ref(old);
    }
    return g_bytes_new_take(data, bytes);
}

static inline void content_set(GBytes **to, GBytes *content)
{
    if (*to) {
        g_bytes_unref(*to);
    }
    *to = content;
}

/* Note what there is now. */
static inline void cut_note(void)
{
    Cut cut;

    for (int i = 0; i < FILES; i++) {
        content_set(&state[i].now, file_content(paths[i], state[i].now));
        cut.files[i].stable = g_bytes_ref(state[i].stable);
        cut.files[i].now = g_bytes_ref(state[i].now);
    }
    g_array_append_val(cuts, cut);
}

/* All that there is is stable. */
static inline void cuts_begin(void)
{
    cuts = g_array_new(false, false, sizeof(Cut));
    for (int i = 0; i < FILES; i++) {
        content_set(&state[i].now, file_content(paths[i], NULL));
        content_set(&state[i].stable, g_bytes_ref(state[i].now));
    }
}

static inline void cuts_end(void)
{
    for (guint i = 0; i < cuts->len; i++) {
        Cut *cut = &g_array_index(cuts, Cut, i);

        for (int j = 0; j < FILES; j++) {
            g_bytes_unref(cut->files[j].stable);
            g_bytes_unref(cut->files[j].now);
        }
    }
    g_clear_pointer(&cuts, g_array_unref);
    for (int i = 0; i < FILES; i++) {
        content_set(&state[i].now, NULL);
        content_set(&state[i].stable, NULL);
    }
}

/* Which pages of what is not stable survive */
typedef enum Survive { NONE, ALL, SOME } Survive;

/* Make a file as a cut may leave it. */
static inline void cut_make(const char *path, const State *s, Survive which,
                            GRand *rand)
{
    gsize stable, now;
    const uint8_t *a = g_bytes_get_data(s->stable, &stable);
    const uint8_t *b = g_bytes_get_data(s->now, &now);
    g_autofree uint8_t *data = g_malloc0(MAX(stable, now));

    /* What glib writes to a file that is there it makes stable. */
    unlink(path);
    if (which == NONE) {
        g_assert_true(g_file_set_contents(path, (char *)a, stable, NULL));
        return;
    }
    memcpy(data, b, now);
    for (gsize at = 0; which == SOME && at < MIN(stable, now); at += PAGE) {
        gsize bytes = MIN(PAGE, MIN(stable, now) - at);

        if (memcmp(a + at, b + at, bytes) && g_rand_boolean(rand)) {
            memcpy(data + at, a + at, bytes);
        }
    }
    g_assert_true(g_file_set_contents(path, (char *)data, now, NULL));
}

static int coroutine_fn GRAPH_RDLOCK
cut_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
            QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    int ret;

    g_assert_cmpint(bytes, >, 0);
    if (cut_writes && cut_writes_seen++ % cut_writes == 0) {
        cut_note();
    }
    if (fail_full && --fail_full == 0) {
        return -ENOSPC;
    }
    ret = bdrv_co_pwritev(bs->file, offset, bytes, qiov, flags);
    if (ret == 0 && (offset == 64 * KiB || offset == 128 * KiB) &&
        fail_header && --fail_header == 0) {
        cut_note();
        ret = -EIO;
    }
    if (ret == 0 && fail_write && --fail_write == 0) {
        cut_note();
        ret = -EIO;
    }
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK cut_flush(BlockDriverState *bs)
{
    int ret;

    if (cuts) {
        cut_note();
    }
    if (fail_flush && --fail_flush == 0) {
        return -EIO;
    }
    ret = bdrv_co_flush(bs->file->bs);
    for (int i = 0; i < FILES && ret == 0 && cuts; i++) {
        if (!strcmp(bs->file->bs->filename, paths[i])) {
            content_set(&state[i].stable, g_bytes_ref(state[i].now));
        }
    }
    return ret;
}

static BlockDriver bdrv_cut = {
    .format_name            = "vhdx-test-cut",
    .is_filter              = true,
    .bdrv_open              = filter_open,
    .bdrv_reopen_prepare    = filter_reopen_prepare,
    .bdrv_child_perm        = bdrv_default_perms,
    .bdrv_co_preadv         = filter_preadv,
    .bdrv_co_pwritev        = cut_pwritev,
    .bdrv_co_pwrite_zeroes  = filter_pwrite_zeroes,
    .bdrv_co_truncate       = filter_truncate,
    .bdrv_co_flush          = cut_flush,
};

/* The options of an image whose flushes are noted */
static inline QDict *noted(int file)
{
    QDict *options = qdict_new();

    qdict_put_str(options, "driver", "vhdx");
    qdict_put_str(options, "file.driver", "vhdx-test-cut");
    qdict_put_str(options, "file.file.driver", "file");
    qdict_put_str(options, "file.file.filename", paths[file]);
    /* Cuts are made of notes: no disk need have anything. */
    qdict_put_bool(options, "file.file.cache.no-flush", true);
    return options;
}

static inline void test_cut_init(void)
{
    bdrv_init();
    bdrv_register(&bdrv_cut);
    qemu_init_main_loop(&error_abort);
    test_dir = g_dir_make_tmp("vhdx-test-XXXXXX", NULL);
    g_assert_nonnull(test_dir);
    cut_dir = g_build_filename(test_dir, "cut", NULL);
    g_assert_cmpint(mkdir(cut_dir, 0700), ==, 0);
    for (int i = 0; i < FILES; i++) {
        paths[i] = g_build_filename(test_dir, names[i], NULL);
        cut_paths[i] = g_build_filename(cut_dir, names[i], NULL);
    }
}

static inline void test_cut_finish(void)
{
    for (int i = 0; i < FILES; i++) {
        unlink(paths[i]);
        unlink(cut_paths[i]);
        g_free(paths[i]);
        g_free(cut_paths[i]);
    }
    rmdir(cut_dir);
    rmdir(test_dir);
    g_free(cut_dir);
    g_free(test_dir);
}

#endif
