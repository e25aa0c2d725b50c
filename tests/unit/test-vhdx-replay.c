/*
 * VHDX unit tests: the active sequence of a log, and replay in memory
 *
 * Each test lays entries into the log of an image (vhdx-test-image.h) and opens
 * it through the block layer, once for reading and once for writing.  What is
 * read must be what the replay makes of the image, and the file must not have
 * changed by a byte.  Or the image must be refused, and again not be changed.
 * These tests are about which entries count; what the entries do is tested in
 * test-vhdx-replay-content.c.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "vhdx-test-open.h"

#define OTHER_GUID  "21222324-2526-2728-292A-2B2C2D2E2F31"

static void test_one(void)
{
    static const uint32_t places[] = {
        0, SECTOR, 100 * SECTOR, IMAGE_LOG_SIZE - 2 * SECTOR
    };

    for (size_t i = 0; i < G_N_ELEMENTS(places); i++) {
        Image *img = image_new();

        put_page(img, places[i], i ? SEQ : 1, places[i], 3, 0x33);
        view_page(img, 3, 0x33);
        check_reads(img);
        check_permanent(img);
        image_free(img);
    }
}

/* Later entries win; all of them count. */
static void test_several(void)
{
    Image *img = image_new();
    uint32_t pos = 40 * SECTOR;

    pos = put_page(img, pos, SEQ, 40 * SECTOR, 3, 0x11);
    pos = put_page(img, pos, SEQ + 1, 40 * SECTOR, 4, 0x22);
    pos = put_page(img, pos, SEQ + 2, 40 * SECTOR, 3, 0x33);
    put_page(img, pos, SEQ + 3, 40 * SECTOR, 300, 0x44);
    view_page(img, 3, 0x33);
    view_page(img, 4, 0x22);
    view_page(img, 300, 0x44);
    check_reads(img);
    check_permanent(img);
    image_free(img);
}

/* What lies before the last entry's tail is in place already. */
static void test_tail_inside(void)
{
    for (int tail = 0; tail < 4; tail++) {
        Image *img = image_new();

        for (int i = 0; i < 4; i++) {
            /* the tails of all but the last entry mean nothing */
            put_page(img, i * 2 * SECTOR, SEQ + i,
                     i == 3 ? tail * 2 * SECTOR : 0xfe000, 10 + i, i);
            if (i >= tail) {
                view_page(img, 10 + i, i);
            }
        }
        check_reads(img);
        check_permanent(img);
        image_free(img);
    }
}

/* -- Round the end of the ring -- */

static void test_wrap_between(void)
{
    Image *img = image_new();
    uint32_t tail = IMAGE_LOG_SIZE - 4 * SECTOR, pos = tail;

    for (int i = 0; i < 5; i++) {
        pos = put_page(img, pos, SEQ + i, tail, i, i);
        view_page(img, i, i);
    }
    g_assert_cmpint(pos, ==, 6 * SECTOR);
    check_reads(img);
    check_permanent(img);
    image_free(img);
}

/* The ring ends inside an entry, after each of its sectors. */
static void test_wrap_inside(void)
{
    for (int before = 1; before <= 4; before++) {
        Image *img = image_new();
        uint32_t tail = IMAGE_LOG_SIZE - before * SECTOR, pos;
        EntrySpec spec = spec_of(SEQ, tail);
        const Update updates[] = {
            { page_at(1), page_of(1) }, { page_at(2), NULL, 3 * SECTOR },
            { page_at(3), page_of(3) }, { page_at(511), page_of(5) },
        };

        pos = log_put(img, tail, &spec, updates, 4);
        g_assert_cmpint(pos, ==, (4 - before) * SECTOR);
        put_page(img, pos, SEQ + 1, tail, 7, 0x77);
        view_apply(img, updates, 4);
        view_page(img, 7, 0x77);
        check_reads(img);
        check_permanent(img);
        image_free(img);
    }
}

/* An entry with two sectors of descriptors that fills most of the ring. */
static void test_wrap_large(void)
{
    for (uint32_t start = 0; start < 256; start += 51) {
        Image *img = image_new();
        EntrySpec spec = spec_of(SEQ, start * SECTOR);
        Update updates[253];

        for (int i = 0; i < 253; i++) {
            updates[i] = (Update) { page_at(2 * i), page_of(i) };
        }
        log_put(img, start * SECTOR, &spec, updates, 253);
        view_apply(img, updates, 253);
        check_reads(img);
        image_free(img);
    }
}

/* -- What ends a run -- */

typedef struct Damage {
    const char *name;
    uint32_t at;                    /* in the entry */
    uint8_t flip;
    bool sealed;                    /* with a checksum that is right again */
} Damage;

static const Damage damages[] = {
    { "signature", 0, 0x20, true },
    { "checksum", 4, 0x01, false },
    { "shorter", 9, 0x10, true },       /* 0x3000 becomes 0x2000 bytes */
    { "longer", 9, 0x70, true },        /* 0x3000 becomes 0x4000 bytes */
    { "tail no sector", 12, 0x01, true },
    { "tail behind log", 14, 0x10, true },
    { "sequence 0", 16, 0, true },
    { "too few descriptors", 24, 0x03, true },
    { "too many descriptors", 24, 0x01, true },
    { "guid", 47, 0x01, true },
    { "flushed", 48, 0x01, true },
    { "last", 57, 0x10, true },
    { "descriptor signature", 64, 0x20, true },
    { "descriptor offset", 81, 0x01, true },
    { "descriptor sequence low", 88, 0x01, true },
    { "descriptor sequence high", 92, 0x01, true },
    { "second descriptor", 96, 0x20, true },
    { "data signature", 4096, 0x20, true },
    { "data sequence high", 4100, 0x01, true },
    { "data", 4104, 0x01, false },
    { "data sequence low", 8188, 0x01, true },
    { "second data signature", 8192, 0x20, true },
    { "last byte", 12287, 0x01, false },
};

/* The last entry, of two pages and thus three sectors, is not valid. */
static void damaged_last(const Damage *damage, bool alone)
{
    Image *img = image_new();
    EntrySpec spec = spec_of(SEQ + 2, alone ? 4 * SECTOR : 0);
    const Update updates[] = {
        { page_at(1), page_of(0xee) }, { page_at(2), page_of(0xef) },
    };
    uint8_t *entry = img->file + IMAGE_LOG + 4 * SECTOR;

    if (!alone) {
        put_page(img, 0, SEQ, 0, 1, 0x11);
        put_page(img, 2 * SECTOR, SEQ + 1, 0, 5, 0x55);
        view_page(img, 1, 0x11);
        view_page(img, 5, 0x55);
    }
    log_put(img, 4 * SECTOR, &spec, updates, 2);
    entry[damage->at] ^= damage->flip;
    if (!damage->flip) {
        put_le(entry + damage->at, 0, 8);
    }
    if (damage->sealed) {
        seal(entry, get_le(entry + 8, 4));
    }
    g_test_message("%s", damage->name);
    if (alone) {
        check_no_sequence(img);
    } else {
        check_reads(img);
    }
    image_free(img);
}

static void test_torn_last(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(damages); i++) {
        damaged_last(&damages[i], false);
    }
}

static void test_torn_only(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(damages); i++) {
        damaged_last(&damages[i], true);
    }
}

/* Only some sectors of the last entry have got to the disk. */
static void test_torn_sectors(void)
{
    for (int present = 0; present < 7; present++) {
        Image *img = image_new();
        EntrySpec spec = spec_of(SEQ + 1, 0);
        const Update updates[] = {
            { page_at(1), page_of(0xee) }, { page_at(2), page_of(0xef) },
        };

        put_page(img, 0, SEQ, 0, 1, 0x11);
        view_page(img, 1, 0x11);
        log_put(img, 2 * SECTOR, &spec, updates, 2);
        for (int i = 0; i < 3; i++) {
            if (!(present >> i & 1)) {
                memset(img->file + IMAGE_LOG + (2 + i) * SECTOR, 0, SECTOR);
            }
        }
        check_reads(img);
        image_free(img);
    }
}

static void test_other_guid(void)
{
    Image *img = image_new();
    EntrySpec spec = spec_of(SEQ + 1, 0);
    const Update update = { page_at(9), page_of(0x99) };

    spec.guid = OTHER_GUID;
    put_page(img, 0, SEQ, 0, 1, 0x11);
    log_put(img, 2 * SECTOR, &spec, &update, 1);
    put_page(img, 4 * SECTOR, SEQ + 2, 0, 2, 0x22);
    view_page(img, 1, 0x11);
    check_reads(img);
    image_free(img);

    img = image_new();
    spec.tail = 2 * SECTOR;
    log_put(img, 2 * SECTOR, &spec, &update, 1);
    check_no_sequence(img);
    image_free(img);
}

static void test_gap(void)
{
    Image *img = image_new();

    /* the entry behind the gap does not reach back over it */
    put_page(img, 0, SEQ, 0, 1, 0x11);
    put_page(img, 2 * SECTOR, SEQ + 1, 0, 2, 0x22);
    put_page(img, 4 * SECTOR, SEQ + 3, 0, 3, 0x33);
    view_page(img, 1, 0x11);
    view_page(img, 2, 0x22);
    check_reads(img);

    /* it is a sequence of its own, and the active one, by its own tail */
    put_page(img, 4 * SECTOR, SEQ + 3, 4 * SECTOR, 3, 0x33);
    memcpy(img->view, img->file, IMAGE_SIZE);
    view_page(img, 3, 0x33);
    check_reads(img);

    /* the same number twice does not continue a run either */
    put_page(img, 4 * SECTOR, SEQ + 1, 0, 3, 0x33);
    memcpy(img->view, img->file, IMAGE_SIZE);
    view_page(img, 1, 0x11);
    view_page(img, 2, 0x22);
    check_reads(img);
    image_free(img);
}

/* -- Which run is active -- */

static void test_stale(void)
{
    for (int newer = 0; newer < 2; newer++) {
        Image *img = image_new();
        uint32_t places[2] = { 0, 64 * SECTOR };
        uint32_t old = places[!newer], new = places[newer];

        put_page(img, old, SEQ - 20, old, 1, 0x11);
        put_page(img, old + 2 * SECTOR, SEQ - 19, old, 2, 0x22);
        put_page(img, old + 4 * SECTOR, SEQ - 18, old, 3, 0x33);
        put_page(img, new, SEQ, new, 2, 0x44);
        put_page(img, new + 2 * SECTOR, SEQ + 1, new, 4, 0x55);
        view_page(img, 2, 0x44);
        view_page(img, 4, 0x55);
        check_reads(img);
        check_permanent(img);
        image_free(img);
    }
}

/* A higher number does not help a run whose tail lies elsewhere. */
static void test_tail_elsewhere(void)
{
    Image *img = image_new();

    put_page(img, 0, SEQ, 0, 1, 0x11);
    put_page(img, 64 * SECTOR, SEQ + 10, 0, 2, 0x22);
    view_page(img, 1, 0x11);
    check_reads(img);
    image_free(img);
}

static void test_tail_outside(void)
{
    static const uint32_t tails[] = {
        0, 9 * SECTOR, 11 * SECTOR, 13 * SECTOR, 14 * SECTOR,
        IMAGE_LOG_SIZE - SECTOR
    };

    for (size_t i = 0; i < G_N_ELEMENTS(tails); i++) {
        Image *img = image_new();

        put_page(img, 10 * SECTOR, SEQ, 10 * SECTOR, 1, 0x11);
        put_page(img, 12 * SECTOR, SEQ + 1, tails[i], 2, 0x22);
        check_no_sequence(img);
        image_free(img);
    }
}

/* An entry without descriptors is an entry. */
static void test_empty_entry(void)
{
    Image *img = image_new();
    EntrySpec spec = spec_of(SEQ, 10 * SECTOR);

    log_put(img, 10 * SECTOR, &spec, NULL, 0);
    check_reads(img);
    check_permanent(img);

    put_page(img, 11 * SECTOR, SEQ + 1, 10 * SECTOR, 1, 0x11);
    spec.sequence = SEQ + 2;
    log_put(img, 13 * SECTOR, &spec, NULL, 0);
    view_page(img, 1, 0x11);
    check_reads(img);

    /* one that says that all before it is in place */
    spec.tail = 13 * SECTOR;
    log_put(img, 13 * SECTOR, &spec, NULL, 0);
    memcpy(img->view, img->file, IMAGE_SIZE);
    check_reads(img);
    image_free(img);
}

/* -- A log that another process goes on with -- */

/*
 * The sector of a page that was in the log holds something else since open:
 * then the page is in place.
 */
static void test_moved_on(void)
{
    static const uint32_t changed[] = { 0, 4, 4092, 4095 };

    for (size_t i = 0; i <= G_N_ELEMENTS(changed); i++) {
        Image *img = image_new();
        g_autofree uint8_t *disk = NULL;
        BlockBackend *blk;

        put_page(img, 0, SEQ, 0, 2, 0x22);
        put_page(img, 2 * SECTOR, SEQ + 2, 2 * SECTOR, 3, 0x33);
        put_page(img, 4 * SECTOR, SEQ + 3, 2 * SECTOR, 4, 0x44);
        store(img);
        blk = open_image(0, &error_abort);

        /* A byte of the signature, or of either half of SequenceNumber */
        view_page(img, 3, 0x33);
        view_page(img, 4, 0x44);
        memcpy(img->file + page_at(4), page_of(0x55), SECTOR);
        if (i < G_N_ELEMENTS(changed)) {
            img->file[IMAGE_LOG + 5 * SECTOR + changed[i]] ^= 1;
            view_page(img, 4, 0x55);
        }
        store(img);
        disk = disk_of(img);
        check_disk(blk, disk);
        blk_unref(blk);
        image_free(img);
    }
}

/* -- No sequence at all -- */

static void test_none(void)
{
    Image *img = image_new();
    g_autoptr(GRand) rand = g_rand_new_with_seed(11);

    check_no_sequence(img);
    rand_fill(rand, img->file + IMAGE_LOG, IMAGE_LOG_SIZE);
    check_no_sequence(img);
    image_free(img);
}

/* Every sector says that an entry as long as the log begins there. */
static void test_all_overlap(void)
{
    Image *img = image_new();

    for (uint32_t pos = 0; pos < IMAGE_LOG_SIZE; pos += SECTOR) {
        uint8_t *entry = img->file + IMAGE_LOG + pos;

        put_page(img, pos, SEQ + pos / SECTOR, 0, 1, 0x11);
        put_le(entry + 8, IMAGE_LOG_SIZE, 4);
    }
    check_refused(img, "log", "");
    image_free(img);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    test_open_init();

    g_test_add_func("/vhdx/replay/one", test_one);
    g_test_add_func("/vhdx/replay/several", test_several);
    g_test_add_func("/vhdx/replay/tail-inside", test_tail_inside);
    g_test_add_func("/vhdx/replay/wrap/between", test_wrap_between);
    g_test_add_func("/vhdx/replay/wrap/inside", test_wrap_inside);
    g_test_add_func("/vhdx/replay/wrap/large", test_wrap_large);
    g_test_add_func("/vhdx/replay/torn/last", test_torn_last);
    g_test_add_func("/vhdx/replay/torn/only", test_torn_only);
    g_test_add_func("/vhdx/replay/torn/sectors", test_torn_sectors);
    g_test_add_func("/vhdx/replay/other-guid", test_other_guid);
    g_test_add_func("/vhdx/replay/gap", test_gap);
    g_test_add_func("/vhdx/replay/stale", test_stale);
    g_test_add_func("/vhdx/replay/tail-elsewhere", test_tail_elsewhere);
    g_test_add_func("/vhdx/replay/tail-outside", test_tail_outside);
    g_test_add_func("/vhdx/replay/empty-entry", test_empty_entry);
    g_test_add_func("/vhdx/replay/moved-on", test_moved_on);
    g_test_add_func("/vhdx/replay/none", test_none);
    g_test_add_func("/vhdx/replay/all-overlap", test_all_overlap);
    ret = g_test_run();
    test_open_finish();
    return ret;
}
