/*
 * VHDX unit tests: blocks and BAT entries by number
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
#include "block/vhdx/geometry.h"
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
                          uint64_t index, uint64_t bytes)
{
    uint64_t got = ~block;

    g_assert_cmpint(vhdx_block_bytes(geo, block), ==, bytes);
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

/* As many MiB as @entries need, and no region is empty. */
static void check_region(const VHDXGeometry *geo, uint64_t entries)
{
    uint64_t room = MiB;

    while (room / 8 < entries) {
        room += MiB;
    }
    g_assert_cmpint(vhdx_bat_region_length(geo), ==, room);
}

/*
 * Entries mean nothing from @end on, which is behind the last payload block's,
 * but that of a child's last sector bitmap.
 */
static void check_behind(const VHDXGeometry *geo, uint64_t end)
{
    uint64_t last = geo->bat_entries > end ? geo->bat_entries - 1 : UINT64_MAX;

    g_assert_cmpint(vhdx_bat_payload_end(geo), ==, end);
    if (end) {
        g_assert_false(vhdx_bat_index_is_behind(geo, 0));
        g_assert_false(vhdx_bat_index_is_behind(geo, end - 1));
    }
    for (uint64_t i = 0; i < 3; i++) {
        g_assert_cmpint(vhdx_bat_index_is_behind(geo, end + i), ==,
                        end + i != last);
        g_assert_true(vhdx_bat_index_is_behind(geo, geo->bat_entries + i));
    }
    if (last != UINT64_MAX) {
        g_assert_false(vhdx_bat_index_is_behind(geo, last));
        g_assert_cmpint(vhdx_bat_index_is_behind(geo, last - 1), ==,
                        last - 1 >= end);
    }
}

/* Walk over the disk that @params describe and compare. */
static void walk(const VHDXParams *params)
{
    uint64_t ratio = slow_chunk(params->block_size, params->logical_sector);
    uint64_t left = params->disk_size;
    uint64_t block = 0, chunk = 0, in_chunk = 0, index = 0, entries = 0;
    uint64_t payload_end = 0;
    VHDXGeometry geo;

    memset(&geo, 0xaa, sizeof(geo));
    vhdx_geometry_init(&geo, params);
    while (left > 0) {
        if (block < 10000 || in_chunk < 2 || in_chunk + 2 >= ratio ||
            left <= params->block_size || block % 1009 == 0) {
            check_payload(&geo, block, index, MIN(left, params->block_size));
        }
        left -= MIN(left, params->block_size);
        block++;
        index++;
        entries = payload_end = index;
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
    entries = params->has_parent ? index : entries;
    g_assert_cmpint(geo.bat_entries, ==, entries);
    check_region(&geo, entries);
    check_behind(&geo, payload_end);
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

/* The largest disk in numbers that are known. */
static void test_known(void)
{
    static const struct {
        uint32_t block_size;
        uint32_t sector;
        uint64_t blocks;
        uint64_t chunks;
        uint32_t region;            /* MiB; a child's is as long */
    } known[] = {
        { MiB, 512, 67108864, 16384, 513 },
        { MiB, 4096, 67108864, 2048, 513 },
        { 2 * MiB, 512, 33554432, 16384, 257 },
        { 32 * MiB, 512, 2097152, 16384, 17 },
        { 32 * MiB, 4096, 2097152, 2048, 17 },
        { 256 * MiB, 512, 262144, 16384, 3 },
        { 256 * MiB, 4096, 262144, 2048, 3 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
        VHDXParams params = {
            .disk_size = 64 * TiB,
            .block_size = known[i].block_size,
            .logical_sector = known[i].sector,
        };
        VHDXGeometry geo;

        vhdx_geometry_init(&geo, &params);
        g_assert_cmpint(geo.blocks, ==, known[i].blocks);
        g_assert_cmpint(geo.chunks, ==, known[i].chunks);
        g_assert_cmpint(geo.bat_entries, ==,
                        known[i].blocks + known[i].chunks - 1);
        g_assert_cmpint(vhdx_bat_region_length(&geo) / MiB, ==,
                        known[i].region);
        g_assert_cmpint(vhdx_block_bytes(&geo, known[i].blocks - 1), ==,
                        known[i].block_size);
        params.has_parent = true;
        vhdx_geometry_init(&geo, &params);
        g_assert_cmpint(geo.bat_entries, ==,
                        known[i].blocks + known[i].chunks);
        g_assert_cmpint(vhdx_bat_region_length(&geo) / MiB, ==,
                        known[i].region);
    }
}

/* A BAT that just fits into a MiB, and one with an entry more */
static void test_region(void)
{
    VHDXParams params = { .block_size = MiB, .logical_sector = 4096 };
    VHDXGeometry geo;

    params.disk_size = (131072 - 3) * (uint64_t)MiB;
    vhdx_geometry_init(&geo, &params);
    g_assert_cmpint(geo.bat_entries, ==, 131072);
    g_assert_cmpint(vhdx_bat_region_length(&geo), ==, MiB);
    params.disk_size += 4096;
    vhdx_geometry_init(&geo, &params);
    g_assert_cmpint(geo.bat_entries, ==, 131073);
    g_assert_cmpint(vhdx_bat_region_length(&geo), ==, 2 * MiB);
}

/* Step through some blocks by pieces of odd lengths. */
static void in_block_walk(VHDXParams *params, GRand *rand)
{
    uint64_t block = 0, at = 0, offset = 0, left, n;
    VHDXGeometry geo;

    params->disk_size = 64 * TiB;
    vhdx_geometry_init(&geo, params);
    for (int i = 0; i < 1000; i++) {
        left = params->block_size - at;
        g_assert_cmpint(vhdx_in_block(&geo, offset), ==, at);
        g_assert_cmpint(vhdx_to_block_end(&geo, offset, UINT64_MAX), ==, left);
        g_assert_cmpint(vhdx_to_block_end(&geo, offset, left), ==, left);
        g_assert_cmpint(vhdx_to_block_end(&geo, offset, left - 1), ==,
                        left - 1);
        g_assert_cmpint(vhdx_to_block_end(&geo, offset, left + 1), ==, left);
        g_assert_cmpint(vhdx_to_block_end(&geo, offset, 0), ==, 0);
        n = i % 3 ? g_rand_int_range(rand, 1, params->block_size) : left;
        at += n;
        offset += n;
        while (at >= params->block_size) {
            at -= params->block_size;
            block++;
        }
        g_assert_cmpint(offset >> geo.block_bits, ==, block);
    }
}

static void test_in_block(void)
{
    for_all_shapes(in_block_walk);
}

static void one_sector(VHDXParams *params, GRand *rand)
{
    uint64_t ratio = slow_chunk(params->block_size, params->logical_sector);
    VHDXGeometry geo;

    params->disk_size = params->logical_sector;
    vhdx_geometry_init(&geo, params);
    g_assert_cmpint(geo.blocks, ==, 1);
    g_assert_cmpint(geo.chunks, ==, 1);
    g_assert_cmpint(geo.bat_entries, ==, params->has_parent ? ratio + 1 : 1);
    g_assert_cmpint(vhdx_bat_region_length(&geo), ==, MiB);
    g_assert_cmpint(vhdx_block_bytes(&geo, 0), ==, params->logical_sector);
}

static void test_one_sector(void)
{
    for_all_shapes(one_sector);
}

static void no_sector(VHDXParams *params, GRand *rand)
{
    VHDXGeometry geo;

    params->disk_size = 0;
    vhdx_geometry_init(&geo, params);
    g_assert_cmpint(geo.blocks, ==, 0);
    g_assert_cmpint(geo.chunks, ==, 0);
    g_assert_cmpint(geo.bat_entries, ==, 0);
    g_assert_cmpint(vhdx_bat_region_length(&geo), ==, MiB);
}

static void test_empty(void)
{
    for_all_shapes(no_sector);
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

/* -- Putting entries right -- */

static void test_normalize(void)
{
    static const struct {
        uint64_t entry;
        uint64_t normal;
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
        uint64_t normal = vhdx_bat_entry_normalize(known[i].entry, false);

        g_assert_cmphex(normal, ==, known[i].normal);
        g_assert_cmphex(vhdx_bat_entry_normalize(normal, false), ==, normal);
        g_assert_cmphex(vhdx_bat_entry_normalize(known[i].entry, true), ==, 0);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/vhdx/geometry/walk/edges", test_edges);
    g_test_add_func("/vhdx/geometry/walk/random", test_random);
    g_test_add_func("/vhdx/geometry/walk/large", test_large);
    g_test_add_func("/vhdx/geometry/known", test_known);
    g_test_add_func("/vhdx/geometry/region", test_region);
    g_test_add_func("/vhdx/geometry/in-block", test_in_block);
    g_test_add_func("/vhdx/geometry/one-sector", test_one_sector);
    g_test_add_func("/vhdx/geometry/empty", test_empty);

    g_test_add_func("/vhdx/geometry/entry", test_entry);

    g_test_add_func("/vhdx/geometry/fill/windows", test_fill);
    g_test_add_func("/vhdx/geometry/fill/largest", test_fill_largest);
    g_test_add_func("/vhdx/geometry/fill/empty", test_fill_empty);

    g_test_add_func("/vhdx/geometry/normalize", test_normalize);

    return g_test_run();
}
