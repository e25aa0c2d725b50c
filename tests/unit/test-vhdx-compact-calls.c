/*
 * VHDX unit tests: every request to the file fails once, compacting
 *
 * What vhdx-test-runs.h has is done with images that are compacted, with
 * requests frozen and while they go on, or get another log.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "vhdx-test-runs.h"
#include "vhdx-test-compact.h"

/* As long as a log may be that is moved */
#define LOG_BYTES   (3 * MiB)

/* The BAT entry of the first sector bitmap, after those of so many blocks */
#define BITMAP_ENTRY    (((uint64_t)1 << 23) * 512 / BLOCK)

/* -- With requests frozen -- */

static void compact_zeroes(void)
{
    compact_as("compact=zeroes");
}

/* A longer log, whose old place gets a block, then a shorter one */
static void log_size(void)
{
    if (!begin()) {
        return;
    }
    amend("log_size=3M");
    look();
    disk_write(image, 9 * PER_BLOCK, 2 * PER_BLOCK, 20);
    disk_discard(image, 3 * PER_BLOCK, PER_BLOCK);
    disk_flush(image);
    amend("log_size=1M");
    look();
    disk_write(image, 11 * PER_BLOCK, PER_BLOCK, 21);
    disk_flush(image);
    look();
}

/* The first change since the image was opened */
static void compact_at_once(void)
{
    if (begin()) {
        amend("compact=zeroes");
        look();
    }
}

/* The log is moved down, and nothing else; if that fails, later on. */
static void compact_log(void)
{
    uint64_t packed = MiB + LOG_BYTES + 2 * MiB + 6 * BLOCK;

    if (!begin()) {
        return;
    }
    amend("compact=space");
    look();
    if (fault.hit && (fault.way == DEAD ||
                      vhdx_change_is_broken(blk_bs(image)->opaque))) {
        return;
    }
    fault.armed = false;
    g_assert_true(amend("compact=space"));
    look();
    g_assert_cmpuint(files[IMAGE].size, ==, packed);
}

/* -- While requests go on -- */

/*
 * The file is as long as what is in it; only a log may stay behind that, as one
 * does not move by less than its length for a block.
 */
static void check_is_packed(void)
{
    BDRVVHDXState *s = blk_bs(image)->opaque;
    uint64_t size = MiB + s->header.log_length + s->bat.length +
                    s->metadata.length + count_places() * BLOCK +
                    (is_chain ? MiB : 0);

    g_assert_cmpuint(s->metadata.offset + s->metadata.length, <=, size);
    g_assert_cmpuint(files[IMAGE].size, ==,
                     MAX(size, s->header.log_offset + s->header.log_length));
}

/*
 * What an error has left can be compacted: nothing stays taken for blocks that
 * have not moved.  Where no more may be written, nothing is.
 */
static void compact_live(bool zeroes)
{
    bool broken;

    compact_once(image, zeroes);
    look();
    disk_write(image, 9 * PER_BLOCK, 2, 20);
    disk_flush(image);
    broken = vhdx_change_is_broken(blk_bs(image)->opaque);
    fault.armed = false;
    g_assert_cmpint(compact_once(image, zeroes), ==, broken ? -EIO : 0);
    /* A dead file may have got longer, and nobody knows it. */
    if (!broken && (!fault.hit || fault.way != DEAD)) {
        check_is_packed();
    }
    look();
}

static void live_as(bool zeroes)
{
    if (begin_with_gaps()) {
        compact_live(zeroes);
    }
}

static void live_space(void)
{
    live_as(false);
}

static void live_zeroes(void)
{
    live_as(true);
}

static void live_at_once(void)
{
    if (begin()) {
        compact_live(true);
    }
}

/* -- Images -- */

/*
 * ... with a region and the log behind all blocks, and room between them: the
 * one can be moved down, and the other one stays.
 */
static void make_image_with_region_of(uint32_t length)
{
    uint8_t *f = files[IMAGE].data;
    uint64_t end_of_file;

    make_image();
    end();
    end_of_file = files[IMAGE].size;
    file_set_size(IMAGE, end_of_file + length + 3 * MiB);
    memcpy(f + end_of_file, f + 3 * MiB, MiB);
    memset(f + 3 * MiB, 0, MiB);
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *header = f + (64 + 64 * i) * KiB;
        uint8_t *table = f + (192 + 64 * i) * KiB;

        for (unsigned n = 0; n < 2; n++) {
            if (guid_is(table + 16 + 32 * n, GUID_REGION_METADATA)) {
                put_le(table + 32 + 32 * n, end_of_file, 8);
                put_le(table + 40 + 32 * n, length, 4);
            }
        }
        seal(table, 64 * KiB);
        put_le(header + 72, end_of_file + length + 2 * MiB, 8);
        seal(header, 4 * KiB);
    }
    g_assert_true(begin());
}

static void make_image_with_region(void)
{
    make_image_with_region_of(MiB);
}

/*
 * ... with a log of 3 MiB that lies @gap bytes behind all blocks; the last of
 * them is where the log has been.
 */
static void make_image_with_log_behind(uint64_t gap)
{
    uint8_t *f = files[IMAGE].data, *entry = f + 2 * MiB + 8 * 6;
    uint64_t last;

    make_image();
    end();
    last = files[IMAGE].size - BLOCK;
    g_assert_cmpuint(get_le(entry, 8), ==, last | 6);
    memcpy(f + MiB, f + last, BLOCK);
    put_le(entry, MiB | 6, 8);
    memset(f + last, 0, BLOCK);
    file_set_size(IMAGE, last + gap + LOG_BYTES);
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *header = f + (64 + 64 * i) * KiB;

        put_le(header + 68, LOG_BYTES, 4);
        put_le(header + 72, last + gap, 8);
        seal(header, 4 * KiB);
    }
    g_assert_true(begin());
}

/* ... with entries that name places they do not use */
static void make_image_with_unused(void)
{
    uint8_t *bat = files[IMAGE].data + 2 * MiB;

    make_image();
    end();
    for (unsigned block = 10; block < 12; block++) {
        g_assert_cmpuint(get_le(bat + 8 * block, 8), <, 8);
        put_le(bat + 8 * block, (20 + block) * MiB, 8);
    }
    g_assert_true(begin());
}

/* A child whose sector bitmap lies behind all blocks, and a gap */
static void make_chain_with_bitmap_behind(void)
{
    uint8_t *f = files[IMAGE].data, *entry = f + 2 * MiB + 8 * BITMAP_ENTRY;
    uint64_t place, to;

    make_chain();
    end();
    g_assert_cmpuint(get_le(entry, 8) % MiB, ==, 6);
    place = get_le(entry, 8) - 6;
    to = files[IMAGE].size + MiB;
    file_set_size(IMAGE, to + MiB);
    memcpy(f + to, f + place, MiB);
    memset(f + place, 0, MiB);
    put_le(entry, to | 6, 8);
    g_assert_true(begin());
    disk_check(image, false, false);
}

/* -- Tests -- */

static void test_compact(void)
{
    make_image();
    run_each(compact_space, 50);
}

static void test_compact_zeroes(void)
{
    make_image();
    run_each(compact_zeroes, 50);
}

/* ... where the log is needed */
static void test_compact_replay(void)
{
    make_image_with_log();
    run_each(compact_at_once, 30);
}

static void test_compact_region(void)
{
    make_image_with_region();
    run_each(compact_space, 50);
}

static void test_compact_region_at_once(void)
{
    make_image_with_region();
    run_each(compact_at_once, 30);
}

static void test_log_size(void)
{
    make_image();
    run_each(log_size, 50);
}

static void test_compact_log(void)
{
    make_image_with_log_behind(LOG_BYTES);
    run_each(compact_log, 15);
}

/* It would overlap itself, and so it goes up before. */
static void test_compact_log_up(void)
{
    make_image_with_log_behind(LOG_BYTES - MiB);
    run_each(compact_log, 25);
}

static void test_compact_log_near(void)
{
    make_image_with_log_behind(MiB);
    run_each(compact_log, 25);
}

static void test_chain_compact(void)
{
    make_chain();
    run_each(compact_space, 50);
}

static void test_chain_log_size(void)
{
    make_chain();
    run_each(log_size, 50);
}

static void test_live(void)
{
    make_image();
    run_each(live_space, 50);
}

static void test_live_zeroes(void)
{
    make_image();
    run_each(live_zeroes, 50);
}

static void test_live_replay(void)
{
    make_image_with_log();
    run_each(live_at_once, 30);
}

static void test_live_region(void)
{
    make_image_with_region();
    run_each(live_space, 50);
}

static void test_live_region_at_once(void)
{
    make_image_with_region();
    run_each(live_at_once, 30);
}

/* Requests would have to wait for one that is long, so it stays. */
static void test_live_long_region(void)
{
    BDRVVHDXState *s;
    uint64_t place;

    make_image_with_region_of(9 * MiB);
    s = blk_bs(image)->opaque;
    place = s->metadata.offset;
    disk_discard(image, 0, 5 * PER_BLOCK);
    g_assert_cmpint(disk_flush(image), >=, 0);
    g_assert_cmpint(compact_once(image, false), ==, 0);
    g_assert_cmpuint(s->metadata.offset, ==, place);
    g_assert_cmpuint(files[IMAGE].size, ==, place + 9 * MiB);
    g_assert_true(amend("compact=space"));
    g_assert_cmpuint(s->metadata.offset, <, place);
    check_is_packed();
    end();
    check_after();
}

static void test_live_unused(void)
{
    make_image_with_unused();
    run_each(live_at_once, 30);
}

static void test_live_chain(void)
{
    make_chain_with_bitmap_behind();
    run_each(live_at_once, 50);
}

int main(int argc, char **argv)
{
    static const RunTest tests[] = {
        { "compact", test_compact },
        { "compact-zeroes", test_compact_zeroes },
        { "compact-replay", test_compact_replay },
        { "compact-region", test_compact_region },
        { "compact-region-at-once", test_compact_region_at_once },
        { "compact-log", test_compact_log },
        { "compact-log-up", test_compact_log_up },
        { "compact-log-near", test_compact_log_near },
        { "log-size", test_log_size },
        { "chain-compact", test_chain_compact },
        { "chain-log-size", test_chain_log_size },
        { "live", test_live },
        { "live-zeroes", test_live_zeroes },
        { "live-replay", test_live_replay },
        { "live-region", test_live_region },
        { "live-region-at-once", test_live_region_at_once },
        { "live-long-region", test_live_long_region },
        { "live-unused", test_live_unused },
        { "live-chain", test_live_chain },
    };

    return runs_main(argc, argv, "compact-calls", tests, ARRAY_SIZE(tests));
}
