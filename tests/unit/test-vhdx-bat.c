/*
 * VHDX unit tests: judging entries of the block allocation table
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/bat.h"
#include "vhdx-test-util.h"

/*
 * The parts of an open image that the judgement of an entry looks at: a disk of
 * 4097 blocks of 2 MiB and half of one in a file of 1 GiB, the log at 1 MiB,
 * metadata at 8 MiB, the BAT at 16 MiB, another region at 64 MiB.  A chunk has
 * 2048 blocks, so that BAT entries 2048 and 4097 are those of sector bitmaps.
 */
static BDRVVHDXState *sample_state(void)
{
    BDRVVHDXState *s = g_new0(BDRVVHDXState, 1);

    s->params = (VHDXParams) {
        .disk_size = 4097 * 2 * (uint64_t)MiB + MiB,
        .block_size = 2 * MiB,
        .logical_sector = 512,
        .physical_sector = 4096,
    };
    vhdx_geometry_init(&s->geo, &s->params);
    s->header.log_offset = MiB;
    s->header.log_length = 2 * MiB;
    s->region_count = 3;
    s->regions = g_new0(VHDXRegion, 3);
    s->regions[0] = (VHDXRegion) { { { 1 } }, 64 * MiB, 4 * MiB, 0 };
    s->metadata = s->regions[1] = (VHDXRegion) {
        vhdx_region_metadata, 8 * MiB, MiB, 1
    };
    s->bat = s->regions[2] = (VHDXRegion) {
        vhdx_region_bat, 16 * MiB, 2 * MiB, 1
    };
    vhdx_file_init(s, GiB);
    return s;
}

static void free_state(BDRVVHDXState *s)
{
    vhdx_file_free(s);
    g_free(s->regions);
    g_free(s);
}

static void accept_entry(BDRVVHDXState *s, uint64_t index, uint64_t entry)
{
    g_assert_cmpint(vhdx_bat_entry_check(s, index, entry, &error_abort), ==,
                    0);
}

/* Refuse @entry at @index, and name @index and @value. */
static void refuse_entry(BDRVVHDXState *s, uint64_t index, uint64_t entry,
                         const char *value)
{
    g_autofree char *name = g_strdup_printf("BAT entry %" PRIu64, index);
    Error *err = NULL;

    g_assert_cmpint(vhdx_bat_entry_check(s, index, entry, &err), ==, -EINVAL);
    expect_error(err, name, value);
}

static void test_judge_good(void)
{
    BDRVVHDXState *s = sample_state();

    for (int state = 0; state < 4; state++) {
        accept_entry(s, 0, state);
        accept_entry(s, 4099, state);
    }
    /* what stands behind a state without a place is not looked at */
    accept_entry(s, 7, 0x0000000000100000);
    accept_entry(s, 7, 0xfffffffffff00003);
    /* UNMAPPED as the 0.95 draft had it */
    accept_entry(s, 7, 5);

    accept_entry(s, 0, 4 * MiB + 6);
    accept_entry(s, 1, 6 * MiB + 6);            /* up to a region */
    accept_entry(s, 2, 9 * MiB + 6);            /* behind it */
    accept_entry(s, 2049, 20 * MiB + 6);        /* the second chunk */
    accept_entry(s, 4, (GiB - 2 * MiB) + 6);    /* the end of the file */
    accept_entry(s, 2048, 0);                   /* no sector bitmap */
    accept_entry(s, 4099, (GiB - MiB) + 6);     /* the last: half is enough */
    free_state(s);
}

static void test_judge_reserved(void)
{
    BDRVVHDXState *s = sample_state();

    for (int bit = 3; bit < 20; bit++) {
        uint64_t entry = 4 * MiB + 6 + (1ULL << bit);
        g_autofree char *value = g_strdup_printf("%" PRIx64, entry);

        refuse_entry(s, 5, entry, value);
    }
    refuse_entry(s, 5, 0x8, "0x0000000000000008");
    free_state(s);
}

static void test_judge_state(void)
{
    BDRVVHDXState *s = sample_state();

    refuse_entry(s, 9, 4 * MiB + 4, "state 4");
    /* only a child has blocks that are partly there */
    refuse_entry(s, 9, 4 * MiB + 7, "state 7");
    free_state(s);
}

static void test_judge_bitmap(void)
{
    BDRVVHDXState *s = sample_state();

    for (int state = 1; state < 8; state++) {
        if (state >= VHDX_BLOCK_FULLY_PRESENT) {
            refuse_entry(s, 2048, 4 * MiB + state, "bitmap");
        } else {
            accept_entry(s, 2048, 4 * MiB + state);
        }
        /* nobody reads what names no place in the file */
        accept_entry(s, 2048, state);
        accept_entry(s, 2048, 0x80000 + state);
        accept_entry(s, 2048, GiB + state);
    }
    free_state(s);
}

static void test_judge_end(void)
{
    BDRVVHDXState *s = sample_state();

    refuse_entry(s, 9, (GiB - MiB) + 6, "0x3ff00000");
    refuse_entry(s, 9, GiB + 6, "0x40000000");
    refuse_entry(s, 9, 0x7ffffffffff00006, "0x7ffffffffff00000");
    refuse_entry(s, 9, 0x8000000000000006, "0x8000000000000000");
    refuse_entry(s, 9, 0xfffffffffff00006, "0xfffffffffff00000");
    free_state(s);
}

static void test_judge_overlap(void)
{
    static const struct {
        uint64_t offset;
        const char *what;
    } bad[] = {
        { 0, "header" }, { MiB, "log" }, { 2 * MiB, "log" },
        { 7 * MiB, "metadata" }, { 8 * MiB, "metadata" }, { 15 * MiB, "BAT" },
        { 16 * MiB, "BAT" }, { 17 * MiB, "BAT" },
    };
    BDRVVHDXState *s = sample_state();

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *value = g_strdup_printf("0x%" PRIx64, bad[i].offset);

        refuse_entry(s, 9, bad[i].offset + 6, value);
        refuse_entry(s, 9, bad[i].offset + 6, bad[i].what);
    }
    /* nobody reads what is not known and not required */
    for (uint64_t offset = 63 * MiB; offset <= 68 * MiB; offset += MiB) {
        accept_entry(s, 9, offset + 6);
    }
    free_state(s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/vhdx/bat/judge/good", test_judge_good);
    g_test_add_func("/vhdx/bat/judge/reserved-bits", test_judge_reserved);
    g_test_add_func("/vhdx/bat/judge/bad-state", test_judge_state);
    g_test_add_func("/vhdx/bat/judge/bitmap", test_judge_bitmap);
    g_test_add_func("/vhdx/bat/judge/beyond-end", test_judge_end);
    g_test_add_func("/vhdx/bat/judge/overlap", test_judge_overlap);

    return g_test_run();
}
