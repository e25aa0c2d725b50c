/*
 * VHDX unit tests: what a replayed log does to an image
 *
 * The sequences in these logs are good (test-vhdx-replay.c has the others).
 * Their entries hold pages and runs of zeros that overlap in all ways, replace
 * the tables that open reads, or say how long the file is to be.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "vhdx-test-open.h"

/* Make one entry of @updates and check what is read, and then written. */
static void check_updates(const Update *updates, uint32_t count)
{
    Image *img = image_new();
    EntrySpec spec = spec_of(SEQ, 0);

    log_put(img, 0, &spec, updates, count);
    view_apply(img, updates, count);
    check_reads(img);
    check_permanent(img);
    image_free(img);
}

/* The same with an entry for each of @updates. */
static void check_entries(const Update *updates, uint32_t count)
{
    Image *img = image_new();
    uint32_t pos = 0;

    for (uint32_t i = 0; i < count; i++) {
        EntrySpec spec = spec_of(SEQ + i, 0);

        pos = log_put(img, pos, &spec, &updates[i], 1);
    }
    view_apply(img, updates, count);
    check_reads(img);
    check_permanent(img);
    image_free(img);
}

static void test_zero_plain(void)
{
    const Update updates[] = {
        { page_at(10), NULL, 4096 },
        { page_at(20), NULL, 40 * 4096 },
        { page_at(255), NULL, 2 * 4096 },       /* over the edge of a block */
        { page_at(100), NULL, 0 },              /* nothing */
    };

    check_updates(updates, 4);
    check_entries(updates, 4);
}

/*
 * Zeros over what is a hole in the file already: the replay must not make the
 * host allocate it.  A block at the end keeps the file as long as it is.
 */
static void test_zero_hole(void)
{
    const uint64_t last = GiB - MiB;
    const Update update = { IMAGE_SIZE, NULL, last - IMAGE_SIZE };
    Image *img = image_new();
    EntrySpec spec = spec_of(SEQ, 0);
    uint8_t buf[512];
    BlockBackend *blk;
    struct stat st;

    spec.last = GiB;
    log_put(img, 0, &spec, &update, 1);
    put_le(img->file + IMAGE_BAT + 16, last + 6, 8);
    store(img);
    blk = open_image(BDRV_O_RDWR, &error_abort);
    memset(buf, 0x77, sizeof(buf));
    g_assert_cmpint(blk_pwrite(blk, 0, sizeof(buf), buf, 0), >=, 0);
    blk_unref(blk);
    g_assert_cmpint(stat(test_path, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, GiB);
    g_assert_cmpint(st.st_blocks * 512, <, 64 * MiB);
    image_free(img);
}

/* What the log has of a block is not where the block's place is. */
static void test_status(void)
{
    Image *img = image_new();
    BlockBackend *blk;
    int64_t n, map;
    int ret;

    put_page(img, 0, SEQ, 0, 1, 0x11);
    store(img);
    blk = open_image(0, &error_abort);
    for (int64_t at = 0; at < 2 * MiB; at += n) {
        GRAPH_RDLOCK_GUARD_MAINLOOP();
        ret = bdrv_block_status(blk_bs(blk), at, 2 * MiB - at, &n, &map, NULL);
        g_assert_cmpint(ret & (BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO), ==,
                        BDRV_BLOCK_DATA);
        if (at <= 4096 && at + n > 4096) {
            g_assert_false(ret & BDRV_BLOCK_OFFSET_VALID);
        } else {
            g_assert_true(ret & BDRV_BLOCK_OFFSET_VALID);
            g_assert_cmpint(map, ==, IMAGE_BLOCKS + at);
        }
    }
    blk_unref(blk);
    image_free(img);
}

static void test_data_over_zero(void)
{
    const Update updates[] = {
        { page_at(10), NULL, 20 * 4096 },
        { page_at(15), page_of(0x15) },         /* in the middle */
        { page_at(10), page_of(0x10) },         /* at its beginning */
        { page_at(29), page_of(0x29) },         /* at its end */
        { page_at(30), page_of(0x30) },         /* behind it */
        { page_at(15), page_of(0x51) },         /* once more */
    };

    check_updates(updates, 6);
    check_entries(updates, 6);
}

static void test_zero_over_data(void)
{
    const Update updates[] = {
        { page_at(10), page_of(0x10) }, { page_at(11), page_of(0x11) },
        { page_at(12), page_of(0x12) }, { page_at(13), page_of(0x13) },
        { page_at(11), NULL, 2 * 4096 },        /* two of the four */
        { page_at(40), page_of(0x40) },
        { page_at(30), NULL, 20 * 4096 },       /* one, and more around it */
        { page_at(60), page_of(0x60) },
        { page_at(60), NULL, 4096 },            /* exactly one */
        { page_at(60), page_of(0x61) },
    };

    check_updates(updates, 10);
    check_entries(updates, 10);
}

static void test_zero_over_zero(void)
{
    const Update updates[] = {
        { page_at(10), NULL, 10 * 4096 },
        { page_at(15), NULL, 10 * 4096 },       /* its end and more */
        { page_at(5), NULL, 8 * 4096 },         /* its beginning and more */
        { page_at(12), page_of(0x12) },
        { page_at(22), page_of(0x22) },
        { page_at(11), NULL, 3 * 4096 },        /* inside */
        { page_at(50), NULL, 4096 }, { page_at(52), NULL, 4096 },
        { page_at(49), NULL, 5 * 4096 },        /* two at once */
        { page_at(53), page_of(0x53) },
    };

    check_updates(updates, 10);
    check_entries(updates, 10);
}

/* More descriptors than one and than two sectors hold, of both kinds. */
static void test_many(void)
{
    static const uint32_t counts[] = { 126, 127, 254, 255, 382, 383 };

    for (size_t i = 0; i < G_N_ELEMENTS(counts); i++) {
        Update updates[383];

        for (uint32_t j = 0; j < counts[i]; j++) {
            if (j % 2) {
                updates[j] = (Update) { page_at(j), page_of(j) };
            } else {
                updates[j] = (Update) { page_at(j), NULL, 4096 };
            }
        }
        check_updates(updates, counts[i]);
    }
}

/* Put a log of random entries into @img and do what those from a tail on say */
static void random_log(Image *img, GRand *rand)
{
    int entries = g_rand_int_range(rand, 1, 10);
    int tail = g_rand_int_range(rand, 0, entries);
    uint32_t pos = g_rand_int_range(rand, 0, 256) * SECTOR;
    uint64_t sequence = rand64(rand) / 2 + 1;
    uint32_t tail_pos = 0;

    for (int i = 0; i < entries; i++) {
        int count = g_rand_int_range(rand, 0, 24);
        Update updates[24];
        EntrySpec spec;

        for (int j = 0; j < count; j++) {
            unsigned page = g_rand_int_range(rand, 0, 128);

            if (g_rand_int_range(rand, 0, 3)) {
                updates[j] = (Update) { page_at(page),
                                        page_of(g_rand_int(rand)) };
            } else {
                updates[j] = (Update) {
                    page_at(page), NULL, g_rand_int_range(rand, 1, 30) * 4096
                };
            }
        }
        if (i == tail) {
            tail_pos = pos;
        }
        spec = spec_of(sequence + i, tail_pos);
        pos = log_put(img, pos, &spec, updates, count);
        if (i >= tail) {
            view_apply(img, updates, count);
        }
    }
}

static void test_random(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(12);

    for (int i = 0; i < 60; i++) {
        Image *img = image_new();

        random_log(img, rand);
        check_reads(img);
        if (i % 4 == 0) {
            check_permanent(img);
        }
        image_free(img);
    }
}

/* -- What open reads is read as it is after the replay -- */

static void test_tables(void)
{
    static const uint64_t places[] = {
        192 * KiB, 256 * KiB, IMAGE_METADATA, IMAGE_METADATA + 64 * KiB,
        IMAGE_BAT
    };
    Image *img = image_new();
    EntrySpec spec = spec_of(SEQ, 0);
    Update updates[G_N_ELEMENTS(places)];

    for (size_t i = 0; i < G_N_ELEMENTS(places); i++) {
        updates[i] = (Update) { places[i], img->view + places[i] };
    }
    log_put(img, 0, &spec, updates, G_N_ELEMENTS(places));
    for (size_t i = 0; i < G_N_ELEMENTS(places); i++) {
        memset(img->file + places[i], 0xee, 4096);
    }
    check_reads(img);
    check_permanent(img);
    image_free(img);
}

/* A table that is good in the file is not when the log makes it bad. */
static void test_tables_spoiled(void)
{
    Image *img = image_new();
    EntrySpec spec = spec_of(SEQ, 0);
    const Update updates[] = {
        { 192 * KiB, NULL, 128 * KiB },
    };

    log_put(img, 0, &spec, updates, 1);
    check_refused(img, "region table", "");
    image_free(img);
}

/* A BAT in the log turns the present blocks round and gives up the second */
static void test_bat(void)
{
    Image *img = image_new();
    g_autofree uint8_t *bat = g_memdup2(img->file + IMAGE_BAT, 4096);
    EntrySpec spec = spec_of(SEQ, 0);
    const Update update = { IMAGE_BAT, bat };

    put_le(bat, IMAGE_BLOCKS + MiB + 6, 8);
    put_le(bat + 8, 2, 8);
    log_put(img, 0, &spec, &update, 1);
    memcpy(img->view + IMAGE_BLOCKS, img->file + IMAGE_BLOCKS + MiB, MiB);
    memset(img->view + IMAGE_BLOCKS + MiB, 0, MiB);
    check_reads(img);
    image_free(img);
}

/* -- The length of the file -- */

static void test_flushed(void)
{
    static const uint64_t good[] = { 0, 4 * MiB, IMAGE_SIZE };
    static const uint64_t bad[] = {
        IMAGE_SIZE + MiB, 64 * TiB, 0x7ffffffffff00000
    };
    const Update update = { page_at(1), page_of(0x11) };

    for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
        Image *img = image_new();
        EntrySpec spec = spec_of(SEQ, 0);

        spec.flushed = good[i];
        log_put(img, 0, &spec, &update, 1);
        view_page(img, 1, 0x11);
        check_reads(img);
        image_free(img);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *value = g_strdup_printf("%" PRIu64, bad[i]);
        Image *img = image_new();
        EntrySpec spec = spec_of(SEQ, 0);

        spec.flushed = bad[i];
        log_put(img, 0, &spec, &update, 1);
        check_refused(img, "FlushedFileOffset", value);
        check_refused(img, "FlushedFileOffset", "6291456");
        image_free(img);
    }
}

/* Only the FlushedFileOffset of the last entry counts. */
static void test_flushed_earlier(void)
{
    Image *img = image_new();
    EntrySpec spec = spec_of(SEQ, 0);
    const Update update = { page_at(1), page_of(0x11) };

    spec.flushed = spec.last = IMAGE_SIZE + 4 * MiB;
    log_put(img, 0, &spec, &update, 1);
    put_page(img, 2 * SECTOR, SEQ + 1, 0, 2, 0x22);
    view_page(img, 1, 0x11);
    view_page(img, 2, 0x22);
    check_reads(img);
    image_free(img);
}

/*
 * The file was cut after an entry that writes behind its new end, and before
 * the tail passed that entry: the last entry says that it may be this short.
 */
static void test_shrunk(void)
{
    Image *img = image_new();
    EntrySpec spec = spec_of(SEQ, 0);
    const Update updates[] = {
        { page_at(1), page_of(0x11) }, { IMAGE_SIZE + MiB, page_of(0x99) },
        { page_at(510), NULL, 2 * MiB }, { IMAGE_SIZE, NULL, MiB },
    };

    spec.last = IMAGE_SIZE + 2 * MiB;
    log_put(img, 0, &spec, updates, 4);
    put_page(img, 3 * SECTOR, SEQ + 1, 0, 2, 0x22);
    view_page(img, 1, 0x11);
    view_page(img, 2, 0x22);
    memset(img->view + page_at(510), 0, 2 * 4096);
    check_reads(img);
    check_permanent(img);
    image_free(img);
}

static int status(BlockBackend *blk, int64_t at, int64_t bytes, int64_t *n)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();
    return bdrv_block_status(blk_bs(blk), at, bytes, n, NULL, NULL) &
           (BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO);
}

/*
 * A block behind the end of the file, but not behind LastFileOffset: the file
 * would be extended by zeros, so that is what the block reads as.
 */
static void test_extended(void)
{
    Image *img = image_new();
    g_autofree uint8_t *bat = g_memdup2(img->file + IMAGE_BAT, 4096);
    EntrySpec spec = spec_of(SEQ, 0);
    const Update updates[] = {
        { IMAGE_BAT, bat }, { page_at(511), page_of(0x55) },
    };
    g_autofree char *now = NULL;
    BlockBackend *blk;
    uint8_t sector[512];
    gsize length;
    int64_t n;

    put_le(bat + 16, (IMAGE_SIZE + MiB) + 6, 8);
    spec.last = IMAGE_SIZE + 2 * MiB;
    log_put(img, 0, &spec, updates, 2);
    view_page(img, 511, 0x55);
    check_reads(img);

    blk = open_image(0, &error_abort);
    g_assert_cmpint(status(blk, 2 * MiB, MiB, &n), ==,
                    BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO);
    g_assert_cmpint(n, ==, MiB);
    blk_unref(blk);

    blk = open_image(BDRV_O_RDWR, &error_abort);
    memset(sector, 0x77, sizeof(sector));
    g_assert_cmpint(blk_pwrite(blk, 2 * MiB + 4096, 512, sector, 0), >=, 0);
    blk_unref(blk);
    g_assert_true(g_file_get_contents(test_path, &now, &length, NULL));
    g_assert_cmpint(length, ==, IMAGE_SIZE + 2 * MiB);
    g_assert_cmpmem(now + IMAGE_SIZE + MiB + 4096, 512, sector, 512);
    image_free(img);
}

/* -- What no log may change -- */

static void test_outside(void)
{
    const Update updates[] = {
        { 0, page_of(1) },                      /* the file identifier */
        { 60 * KiB, page_of(1) },
        { 64 * KiB, page_of(1) },               /* a header */
        { 128 * KiB, page_of(1) },
        { 0, NULL, 6 * MiB },
        { 188 * KiB, NULL, 8 * KiB },
        { IMAGE_LOG, page_of(1) },              /* the log itself */
        { IMAGE_LOG + IMAGE_LOG_SIZE - 4096, page_of(1) },
        { IMAGE_LOG - 4096, NULL, 8 * KiB },
        { IMAGE_LOG - MiB / 2, NULL, 2 * MiB },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(updates); i++) {
        g_autofree char *value = g_strdup_printf("%" PRIu64,
                                                 updates[i].offset);
        Image *img = image_new();
        EntrySpec spec = spec_of(SEQ, 0);

        log_put(img, 0, &spec, &updates[i], 1);
        check_refused(img, "FileOffset", value);
        image_free(img);
    }
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    test_open_init();

    g_test_add_func("/vhdx/replay-content/status", test_status);
    g_test_add_func("/vhdx/replay-content/zero/plain", test_zero_plain);
    g_test_add_func("/vhdx/replay-content/zero/hole", test_zero_hole);
    g_test_add_func("/vhdx/replay-content/zero/data-over-zero",
                    test_data_over_zero);
    g_test_add_func("/vhdx/replay-content/zero/zero-over-data",
                    test_zero_over_data);
    g_test_add_func("/vhdx/replay-content/zero/zero-over-zero",
                    test_zero_over_zero);
    g_test_add_func("/vhdx/replay-content/many-descriptors", test_many);
    g_test_add_func("/vhdx/replay-content/random", test_random);
    g_test_add_func("/vhdx/replay-content/tables", test_tables);
    g_test_add_func("/vhdx/replay-content/tables-spoiled",
                    test_tables_spoiled);
    g_test_add_func("/vhdx/replay-content/bat", test_bat);
    g_test_add_func("/vhdx/replay-content/flushed", test_flushed);
    g_test_add_func("/vhdx/replay-content/flushed-earlier",
                    test_flushed_earlier);
    g_test_add_func("/vhdx/replay-content/shrunk", test_shrunk);
    g_test_add_func("/vhdx/replay-content/extended", test_extended);
    g_test_add_func("/vhdx/replay-content/outside", test_outside);
    ret = g_test_run();
    test_open_finish();
    return ret;
}
