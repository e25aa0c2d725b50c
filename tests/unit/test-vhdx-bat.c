/*
 * VHDX unit tests: the block allocation table
 *
 * The model is slow and knows no formula: it walks over a disk block by block
 * and lays one entry behind the other, with the entry of a sector bitmap after
 * every chunk.  What the driver works out must agree with where the walk has
 * got to.  Walks go up to 64 TiB; on long ones only blocks next to the edge of
 * a chunk and a sample of the others are compared.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/bat.h"
#include "vhdx-test-util.h"

/* Blocks that the 2^23 bits of a sector bitmap block are enough for. */
static uint64_t slow_chunk(uint32_t block_size, uint32_t sector)
{
    uint64_t bytes = 0, blocks = 0;

    for (int bit = 0; bit < 8 * MiB; bit++) {
        bytes += sector;
    }
    for (; bytes > 0; bytes -= block_size) {
        blocks++;
    }
    return blocks;
}

static void check_payload(const VHDXGeometry *geo, uint64_t block,
                          uint64_t index)
{
    uint64_t got = ~block;

    g_assert_cmpint(vhdx_bat_index(geo, block), ==, index);
    g_assert_false(vhdx_bat_index_is_bitmap(geo, index, &got));
    g_assert_cmpint(got, ==, block);
}

static void check_bitmap(const VHDXGeometry *geo, uint64_t chunk,
                         uint64_t index)
{
    uint64_t got;

    g_assert_cmpint(vhdx_bat_bitmap_index(geo, chunk), ==, index);
    g_assert_true(vhdx_bat_index_is_bitmap(geo, index, &got));
}

/* Walk over the disk that @params describe and compare. */
static void walk(const VHDXParams *params)
{
    uint64_t ratio = slow_chunk(params->block_size, params->logical_sector);
    uint64_t left = params->disk_size;
    uint64_t block = 0, chunk = 0, in_chunk = 0, index = 0, entries = 0;
    VHDXGeometry geo;

    memset(&geo, 0xaa, sizeof(geo));
    vhdx_geometry_init(&geo, params);
    while (left > 0) {
        if (block < 10000 || in_chunk < 2 || in_chunk + 2 >= ratio ||
            left <= params->block_size || block % 1009 == 0) {
            check_payload(&geo, block, index);
        }
        left -= MIN(left, params->block_size);
        block++;
        index++;
        entries = index;
        in_chunk++;
        if (in_chunk == ratio) {
            check_bitmap(&geo, chunk, index);
            index++;
            chunk++;
            in_chunk = 0;
        }
    }
    if (in_chunk > 0) {
        /* The last bitmap's entry stands behind a whole chunk. */
        index += ratio - in_chunk;
        check_bitmap(&geo, chunk, index);
        index++;
        chunk++;
    }

    g_assert_cmpint(geo.disk_size, ==, params->disk_size);
    g_assert_cmpint(geo.block_size, ==, params->block_size);
    g_assert_cmpint(1ULL << geo.block_bits, ==, params->block_size);
    g_assert_cmpint(1ULL << geo.chunk_bits, ==, ratio);
    g_assert_cmpint(geo.blocks, ==, block);
    g_assert_cmpint(geo.chunks, ==, chunk);
    g_assert_cmpint(geo.bat_entries, ==,
                    params->has_parent ? index : entries);
}

/* Call @func for both sector sizes, all block sizes, with and without parent */
static void for_all_shapes(void (*func)(VHDXParams *params, GRand *rand))
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(5);

    for (int shape = 0; shape < 9 * 2 * 2; shape++) {
        VHDXParams params = {
            .block_size = MiB << shape / 4,
            .logical_sector = shape & 1 ? 4096 : 512,
            .physical_sector = 4096,
            .has_parent = shape & 2,
        };

        func(&params, rand);
    }
}

static void walk_edges(VHDXParams *params, GRand *rand)
{
    uint64_t block = params->block_size;
    uint64_t chunk = block * slow_chunk(block, params->logical_sector);
    const uint64_t sizes[] = {
        0, params->logical_sector, block - params->logical_sector, block,
        block + params->logical_sector, 2 * block,
        chunk - block, chunk - params->logical_sector, chunk,
        chunk + params->logical_sector, chunk + block,
        2 * chunk - block, 2 * chunk, 2 * chunk + params->logical_sector,
    };

    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        params->disk_size = sizes[i];
        walk(params);
    }
}

static void test_edges(void)
{
    for_all_shapes(walk_edges);
}

static void walk_random(VHDXParams *params, GRand *rand)
{
    for (int i = 0; i < 10; i++) {
        /* of all magnitudes, but of not too many blocks */
        uint64_t max = (uint64_t)params->block_size << g_rand_int_range(rand,
                                                                       0, 19);

        params->disk_size = rand64(rand) % (MIN(max, 64 * TiB) + 1);
        params->disk_size -= params->disk_size % params->logical_sector;
        walk(params);
    }
}

static void test_random(void)
{
    for_all_shapes(walk_random);
}

static void walk_large(VHDXParams *params, GRand *rand)
{
    if (params->has_parent) {
        params->disk_size = 64 * TiB;
    } else {
        params->disk_size = 64 * TiB -
            (uint64_t)g_rand_int(rand) * params->logical_sector;
    }
    walk(params);
}

static void test_large(void)
{
    for_all_shapes(walk_large);
}

/* 64 TiB in numbers that are known. */
static void test_largest(void)
{
    VHDXParams params = {
        .disk_size = 64 * TiB, .block_size = MiB, .logical_sector = 512,
    };
    VHDXGeometry geo;

    vhdx_geometry_init(&geo, &params);
    g_assert_cmpint(geo.blocks, ==, 67108864);
    g_assert_cmpint(geo.chunks, ==, 16384);
    g_assert_cmpint(geo.bat_entries, ==, 67108864 + 16383);
    params.has_parent = true;
    vhdx_geometry_init(&geo, &params);
    g_assert_cmpint(geo.bat_entries, ==, 67108864 + 16384);
}

/* -- Entries -- */

static void test_entry(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(6);

    g_assert_cmphex(vhdx_bat_entry(VHDX_BLOCK_FULLY_PRESENT, 5 * MiB), ==,
                    0x0000000000500006);
    g_assert_cmphex(vhdx_bat_entry(VHDX_BLOCK_PARTIALLY_PRESENT,
                                   0xfffffffffff00000), ==,
                    0xfffffffffff00007);
    g_assert_cmphex(vhdx_bat_entry(VHDX_BLOCK_NOT_PRESENT, 0), ==, 0);
    g_assert_cmphex(vhdx_bat_entry(VHDX_BLOCK_UNDEFINED, 0), ==, 1);
    g_assert_cmphex(vhdx_bat_entry(VHDX_BLOCK_ZERO, 0), ==, 2);
    g_assert_cmphex(vhdx_bat_entry(VHDX_BLOCK_UNMAPPED, 0), ==, 3);
    g_assert_cmpint(vhdx_bat_state(0xffffffffffffffff), ==, 7);
    g_assert_cmphex(vhdx_bat_offset(0xffffffffffffffff), ==,
                    0xfffffffffff00000);
    g_assert_cmphex(VHDX_BAT_RESERVED_MASK, ==, 0x00000000000ffff8);

    for (int i = 0; i < 1000; i++) {
        uint64_t mib = rand64(rand) % ((uint64_t)1 << 44);
        VHDXBlockState state = g_rand_int_range(rand, 0, 8);
        uint64_t entry = vhdx_bat_entry(state, mib * MiB);

        g_assert_cmphex(entry % 8, ==, state);
        g_assert_cmphex(entry / MiB, ==, mib);
        g_assert_cmpint(vhdx_bat_state(entry), ==, state);
        g_assert_cmphex(vhdx_bat_offset(entry), ==, mib * MiB);
    }
}

/* -- Filling -- */

/* The whole table of a new image, and @extra zero entries, as bytes. */
static uint8_t *slow_table(const VHDXParams *params, int state,
                           uint64_t first_block, uint64_t extra,
                           uint64_t *count)
{
    uint64_t ratio = slow_chunk(params->block_size, params->logical_sector);
    uint64_t in_chunk = 0, place = first_block;
    GByteArray *table = g_byte_array_new();
    static const uint8_t zero[8];

    for (uint64_t at = 0; at < params->disk_size; at += params->block_size) {
        uint8_t entry[8];

        if (in_chunk == ratio) {
            g_byte_array_append(table, zero, 8);
            in_chunk = 0;
        }
        put_le(entry, state + place, 8);
        g_byte_array_append(table, entry, 8);
        if (first_block) {
            place += params->block_size;
        }
        in_chunk++;
    }
    for (uint64_t i = 0; i < extra; i++) {
        g_byte_array_append(table, zero, 8);
    }
    *count = table->len / 8;
    return g_byte_array_free(table, false);
}

static void fill_windows(VHDXParams *params, GRand *rand)
{
    static const int states[] = { 0, 2, 6 };
    int state = states[g_rand_int_range(rand, 0, 3)];
    uint64_t first_block = state == 6 ? 9 * MiB : 0;
    g_autofree uint8_t *want = NULL;
    g_autofree uint8_t *got = NULL;
    VHDXGeometry geo;
    uint64_t count;

    params->disk_size = (uint64_t)params->block_size *
                        g_rand_int_range(rand, 1, 40000) - 4096;
    vhdx_geometry_init(&geo, params);
    want = slow_table(params, state, first_block, 40000, &count);
    got = g_malloc(count * 8);

    memset(got, 0xaa, count * 8);
    vhdx_bat_fill(&geo, 0, count, state, first_block, got);
    g_assert_cmpmem(got, count * 8, want, count * 8);

    for (int i = 0; i < 20; i++) {
        uint64_t index = rand64(rand) % count;
        uint64_t n = rand64(rand) % MIN(count - index, 5000);

        memset(got, 0xaa, n * 8 + 1);
        vhdx_bat_fill(&geo, index, n, state, first_block, got);
        g_assert_cmpmem(got, n * 8, want + index * 8, n * 8);
        g_assert_cmphex(got[n * 8], ==, 0xaa);
    }
}

static void test_fill(void)
{
    for_all_shapes(fill_windows);
}

/* The end of the table of the largest disk, whose numbers are known. */
static void test_fill_largest(void)
{
    VHDXParams params = {
        .disk_size = 64 * TiB, .block_size = MiB, .logical_sector = 512,
    };
    uint8_t got[4 * 8];
    VHDXGeometry geo;

    vhdx_geometry_init(&geo, &params);
    /* the last two payload blocks, the bitmap entry, and one behind all */
    vhdx_bat_fill(&geo, 67108862 + 16383, 4, VHDX_BLOCK_FULLY_PRESENT,
                  1024 * MiB, got);
    g_assert_cmphex(get_le(got, 8), ==, (1024 + 67108862ULL) * MiB + 6);
    g_assert_cmphex(get_le(got + 8, 8), ==, (1024 + 67108863ULL) * MiB + 6);
    g_assert_cmphex(get_le(got + 16, 8), ==, 0);
    g_assert_cmphex(get_le(got + 24, 8), ==, 0);
}

/* No entry has its value from a block that a disk of no size does not have. */
static void test_fill_empty(void)
{
    VHDXParams params = { .block_size = MiB, .logical_sector = 512 };
    VHDXGeometry geo;
    uint8_t got[64], zero[64] = { 0 };

    vhdx_geometry_init(&geo, &params);
    g_assert_cmpint(geo.blocks, ==, 0);
    g_assert_cmpint(geo.bat_entries, ==, 0);
    memset(got, 0xaa, sizeof(got));
    vhdx_bat_fill(&geo, 0, 8, VHDX_BLOCK_ZERO, 0, got);
    g_assert_cmpmem(got, 64, zero, 64);
}

/* -- Judging -- */

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

static void test_mend(void)
{
    static const struct {
        uint64_t entry;
        uint64_t mended;
    } known[] = {
        { 0, 0 }, { 1, 1 }, { 2, 2 }, { 3, 3 },
        /* states that have no offset, and those that may keep one */
        { 5 * MiB + 0, 0 }, { 5 * MiB + 1, 5 * MiB + 1 },
        { 5 * MiB + 2, 2 }, { 5 * MiB + 3, 5 * MiB + 3 },
        { 5 * MiB + 6, 5 * MiB + 6 },
        { 0xfffffffffff00000, 0 }, { 0xfffffffffff00002, 2 },
        { 0xfffffffffff00006, 0xfffffffffff00006 },
        /* the draft's UNMAPPED */
        { 5, 3 }, { 5 * MiB + 5, 5 * MiB + 3 },
        /* reserved bits */
        { 8, 0 }, { 0x80002, 2 }, { 0xffffd, 3 },
        { 5 * MiB + 8 + 6, 5 * MiB + 6 },
        { 5 * MiB + 0xffff8 + 3, 5 * MiB + 3 },
        { UINT64_MAX, 0xfffffffffff00007 },
        /* nobody knows what these should be */
        { 4, 4 }, { 7, 7 }, { 5 * MiB + 4, 5 * MiB + 4 },
        { 5 * MiB + 7, 5 * MiB + 7 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
        uint64_t mended = vhdx_bat_entry_normalize(known[i].entry, false);

        g_assert_cmphex(mended, ==, known[i].mended);
        g_assert_cmphex(vhdx_bat_entry_normalize(mended, false), ==, mended);
        g_assert_cmphex(vhdx_bat_entry_normalize(known[i].entry, true), ==, 0);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/vhdx/bat/geometry/edges", test_edges);
    g_test_add_func("/vhdx/bat/geometry/random", test_random);
    g_test_add_func("/vhdx/bat/geometry/large", test_large);
    g_test_add_func("/vhdx/bat/geometry/largest", test_largest);

    g_test_add_func("/vhdx/bat/entry", test_entry);

    g_test_add_func("/vhdx/bat/fill/windows", test_fill);
    g_test_add_func("/vhdx/bat/fill/largest", test_fill_largest);
    g_test_add_func("/vhdx/bat/fill/empty", test_fill_empty);

    g_test_add_func("/vhdx/bat/judge/good", test_judge_good);
    g_test_add_func("/vhdx/bat/judge/reserved-bits", test_judge_reserved);
    g_test_add_func("/vhdx/bat/judge/bad-state", test_judge_state);
    g_test_add_func("/vhdx/bat/judge/bitmap", test_judge_bitmap);
    g_test_add_func("/vhdx/bat/judge/beyond-end", test_judge_end);
    g_test_add_func("/vhdx/bat/judge/overlap", test_judge_overlap);

    g_test_add_func("/vhdx/bat/mend", test_mend);

    return g_test_run();
}
