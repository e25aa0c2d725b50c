/*
 * VHDX unit tests: the parts of a log entry
 *
 * The driver writes entries of data descriptors only, and reads any.  What it
 * writes is compared with vhdx-test-log.h byte for byte; what it reads is made
 * there, and spoiled here.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/format.h"
#include "vhdx-test-log.h"

#define LOG_GUID    "21222324-2526-2728-292A-2B2C2D2E2F30"
#define LOG_LENGTH  (4 * (uint32_t)MiB)
#define SEQUENCE    0x8877665544332211

static VHDXGuid log_guid(void)
{
    VHDXGuid guid;

    g_assert_cmpint(uuid_parse(LOG_GUID, guid.id), ==, 0);
    return guid;
}

static const EntrySpec sample_spec = {
    .guid = LOG_GUID,
    .sequence = SEQUENCE,
    .tail = 0x2000,
    .flushed = 7 * MiB,
    .last = 9 * (uint64_t)TiB,
};

static VHDXLogEntry sample_entry(void)
{
    return (VHDXLogEntry) {
        .tail = 0x2000,
        .sequence = SEQUENCE,
        .log_guid = log_guid(),
        .flushed_file_offset = 7 * MiB,
        .last_file_offset = 9 * (uint64_t)TiB,
    };
}

/* -- Sizes -- */

static void test_size(void)
{
    static const struct {
        uint32_t pages;
        uint32_t desc_sectors;
    } known[] = {
        { 0, 1 }, { 1, 1 }, { 125, 1 }, { 126, 1 }, { 127, 2 }, { 254, 2 },
        { 255, 3 }, { 382, 3 }, { 383, 4 }, { 65534, 512 }, { 65535, 513 },
        { 0xfffffffe, 0x2000000 }, { 0xffffffff, 0x2000001 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
        g_assert_cmpint(vhdx_log_desc_sectors(known[i].pages), ==,
                        known[i].desc_sectors);
        if (known[i].pages < 0x10000) {
            g_assert_cmpint(vhdx_log_entry_size(known[i].pages), ==, 4096 *
                            (known[i].pages + known[i].desc_sectors));
        }
    }
}

/* -- Encoding -- */

static void test_encode_bytes(void)
{
    static const uint8_t header[64] = {
        'l', 'o', 'g', 'e', 0, 0, 0, 0, 0x00, 0x20, 0, 0, 0x00, 0x20, 0, 0,
        0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 1, 0, 0, 0, 0, 0, 0, 0,
        0x24, 0x23, 0x22, 0x21, 0x26, 0x25, 0x28, 0x27,
        0x29, 0x2a, 0x2b, 0x2c, 0x2d, 0x2e, 0x2f, 0x30,
        0x00, 0x00, 0x70, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0
    };
    static const uint8_t desc[32] = {
        'd', 'e', 's', 'c', 0xfc, 0xfd, 0xfe, 0xff, 0, 1, 2, 3, 4, 5, 6, 7,
        0, 0xf0, 0x30, 0, 1, 0, 0, 0,
        0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88
    };
    static const uint8_t data[8] = { 'd', 'a', 't', 'a', 0x55, 0x66, 0x77,
                                     0x88 };
    static const uint8_t low[4] = { 0x11, 0x22, 0x33, 0x44 };
    const uint64_t offset = 4 * (uint64_t)GiB + 3 * MiB + 0xf000;
    VHDXLogEntry entry = sample_entry();
    uint8_t page[4096], got[8192], zero[4096] = { 0 };
    uint8_t *const pages[1] = { page };

    for (int i = 0; i < 4096; i++) {
        page[i] = i;
    }
    memset(got, 0, 4096);
    memset(got + 4096, 0xaa, 4096);
    vhdx_log_entry_encode(&entry, 1, &offset, pages, got);
    g_assert_cmpint(entry.length, ==, 8192);
    g_assert_cmpint(entry.descriptors, ==, 1);

    g_assert_cmpmem(got, 4, header, 4);
    g_assert_cmpmem(got + 8, 56, header + 8, 56);
    g_assert_cmpmem(got + 64, 32, desc, 32);
    g_assert_cmpmem(got + 96, 4000, zero, 4000);
    g_assert_cmpmem(got + 4096, 8, data, 8);
    g_assert_cmpmem(got + 4104, 4084, page + 8, 4084);
    g_assert_cmpmem(got + 8188, 4, low, 4);
    g_assert_cmphex(get_le(got + 4, 4), !=, 0);
    memcpy(zero, got, 4);
    memcpy(zero + 4, got + 4, 4);
    seal(got, 8192);
    g_assert_cmpmem(got, 8, zero, 8);
}

/* All numbers of descriptors about the edges of their sectors. */
static void test_encode_many(void)
{
    static const uint32_t counts[] = { 0, 1, 2, 125, 126, 127, 253, 254, 255,
                                       382, 383 };
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);
    g_autofree uint8_t *data = g_malloc(383 * 4096);

    rand_fill(rand, data, 383 * 4096);
    for (size_t i = 0; i < G_N_ELEMENTS(counts); i++) {
        VHDXLogEntry entry = sample_entry();
        uint32_t count = counts[i];
        uint64_t offsets[383];
        uint8_t *pages[383];
        Update updates[383];
        g_autofree uint8_t *got = g_malloc(vhdx_log_entry_size(count));
        g_autofree uint8_t *want = NULL;
        size_t length;

        for (uint32_t j = 0; j < count; j++) {
            pages[j] = data + 4096 * j;
            offsets[j] = (rand64(rand) >> 18) * 4096;
            updates[j] = (Update) { offsets[j], pages[j] };
        }
        want = entry_bytes(&sample_spec, updates, count, &length);
        memset(got, 0xaa, vhdx_log_entry_size(count));
        memset(got, 0, vhdx_log_desc_sectors(count) * 4096);
        vhdx_log_entry_encode(&entry, count, offsets, pages, got);
        g_assert_cmpint(entry.descriptors, ==, count);
        g_assert_cmpmem(got, entry.length, want, length);
    }
}

/* -- The header of an entry -- */

static uint8_t *sample_bytes(size_t *length)
{
    static uint8_t page[4096] = { 1, 2, 3 };
    const Update updates[3] = {
        { 3 * MiB, page }, { 5 * MiB, NULL, 64 * KiB },
        { 3 * MiB + 4096, page }
    };

    return entry_bytes(&sample_spec, updates, 3, length);
}

static bool decode(const uint8_t *buf, VHDXLogEntry *entry)
{
    VHDXGuid guid = log_guid();
    uint32_t checksum;

    return vhdx_log_entry_decode(buf, LOG_LENGTH, &guid, entry, &checksum);
}

static void test_decode_good(void)
{
    size_t length;
    g_autofree uint8_t *buf = sample_bytes(&length);
    VHDXGuid guid = log_guid();
    VHDXLogEntry e;
    uint32_t checksum = 0;

    g_assert_true(vhdx_log_entry_decode(buf, LOG_LENGTH, &guid, &e,
                                        &checksum));
    g_assert_cmphex(checksum, ==, get_le(buf + 4, 4));
    g_assert_cmpint(e.length, ==, 3 * 4096);
    g_assert_cmpint(e.tail, ==, 0x2000);
    g_assert_cmphex(e.sequence, ==, SEQUENCE);
    g_assert_cmpint(e.descriptors, ==, 3);
    g_assert_true(vhdx_guid_equal(&e.log_guid, &guid));
    g_assert_cmpint(e.flushed_file_offset, ==, 7 * MiB);
    g_assert_cmpint(e.last_file_offset, ==, 9 * TiB);
}

typedef struct Field {
    int at;
    int bytes;
    uint64_t value;
} Field;

/* The header is @good, or not, with @field changed. */
static void check_field(const Field *field, bool good)
{
    size_t length;
    g_autofree uint8_t *buf = sample_bytes(&length);
    VHDXLogEntry e;

    put_le(buf + field->at, field->value, field->bytes);
    if (decode(buf, &e) != good) {
        g_test_message("offset %d: 0x%" PRIx64, field->at, field->value);
        g_test_fail();
    }
}

static void test_decode_edges(void)
{
    static const Field good[] = {
        { 8, 4, 4096 }, { 8, 4, LOG_LENGTH },       /* length */
        { 12, 4, 0 }, { 12, 4, LOG_LENGTH - 4096 }, /* tail */
        { 16, 8, 1 }, { 16, 8, UINT64_MAX },        /* sequence */
        { 24, 4, 0 }, { 24, 4, 126 }, { 24, 4, 382 }, /* descriptors */
        { 48, 8, 0 }, { 56, 8, 0 },                 /* flushed and last */
        { 48, 8, 0x7ffffffffff00000 }, { 56, 8, 0x7ffffffffff00000 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
        check_field(&good[i], true);
    }
}

static void test_decode_bad(void)
{
    static const Field bad[] = {
        { 0, 1, 'L' }, { 3, 1, 'f' }, { 0, 4, 0 },  /* signature */
        { 8, 4, 0 }, { 8, 4, 64 }, { 8, 4, 4095 },  /* length */
        { 8, 4, 4097 }, { 8, 4, LOG_LENGTH + 4096 }, { 8, 4, 0xfffff000 },
        { 8, 4, 0xffffffff },
        { 12, 4, 1 }, { 12, 4, 512 }, { 12, 4, 4097 }, /* tail */
        { 12, 4, LOG_LENGTH }, { 12, 4, 0xfffff000 }, { 12, 4, 0xffffffff },
        { 16, 8, 0 },                               /* sequence */
        { 24, 4, 383 }, { 24, 4, 0x80000000 },      /* descriptors */
        { 24, 4, 0xfffffffe }, { 24, 4, 0xffffffff },
        { 32, 1, 0x25 }, { 47, 1, 0 },              /* GUID */
        { 48, 8, 4096 }, { 48, 8, MiB + 1 },        /* flushed */
        { 48, 8, 0x8000000000000000 }, { 48, 8, UINT64_MAX },
        { 56, 8, 4096 }, { 56, 8, MiB + 1 },        /* last */
        { 56, 8, 0x8000000000000000 }, { 56, 8, UINT64_MAX },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        check_field(&bad[i], false);
    }
}

static void test_round_trip(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(8);

    for (int i = 0; i < 200; i++) {
        VHDXLogEntry want = {
            .tail = g_rand_int(rand) % (LOG_LENGTH / 4096) * 4096,
            .sequence = rand64(rand) | 1,
            .log_guid = log_guid(),
            .flushed_file_offset = (rand64(rand) >> 21) * MiB,
            .last_file_offset = (rand64(rand) >> 21) * MiB,
        }, got;
        uint8_t page[4096], buf[2 * 4096] = { 0 }, back[4096];
        uint8_t *const pages[1] = { page };
        uint64_t offset = (rand64(rand) >> 13) * 4096;
        VHDXLogDesc desc;

        rand_fill(rand, page, 4096);
        vhdx_log_entry_encode(&want, 1, &offset, pages, buf);
        g_assert_true(decode(buf, &got));
        g_assert_cmpint(got.length, ==, want.length);
        g_assert_cmpint(got.tail, ==, want.tail);
        g_assert_cmphex(got.sequence, ==, want.sequence);
        g_assert_cmpint(got.descriptors, ==, 1);
        g_assert_cmphex(got.flushed_file_offset, ==, want.flushed_file_offset);
        g_assert_cmphex(got.last_file_offset, ==, want.last_file_offset);

        vhdx_log_desc_decode(buf + 64, want.sequence, &desc);
        g_assert_cmpint(desc.type, ==, VHDX_LOG_DESC_DATA);
        g_assert_cmphex(desc.file_offset, ==, offset);
        g_assert_true(vhdx_log_data_valid(buf + 4096, want.sequence));
        vhdx_log_data_decode(buf + 4096, &desc, back);
        g_assert_cmpmem(back, 4096, page, 4096);
    }
}

/* -- The checksum in pieces -- */

static void test_checksum(void)
{
    size_t length;
    g_autofree uint8_t *buf = sample_bytes(&length);
    uint32_t want = get_le(buf + 4, 4);

    g_assert_cmphex(vhdx_log_checksum_update(0, buf, length, true), ==, want);
    for (size_t cut = 64; cut < length; cut += 1111) {
        uint32_t crc = vhdx_log_checksum_update(0, buf, cut, true);

        crc = vhdx_log_checksum_update(crc, buf + cut, length - cut, false);
        g_assert_cmphex(crc, ==, want);
    }
    for (size_t i = 0; i < length; i += i < 160 ? 1 : 1021) {
        uint32_t crc;

        buf[i] ^= 0x01;
        crc = vhdx_log_checksum_update(0, buf, length, true);
        /* all bytes count but those of the checksum itself */
        g_assert_cmpint(crc == want, ==, i >= 4 && i < 8);
        buf[i] ^= 0x01;
    }
}

/* -- Descriptors -- */

/* The descriptor @buf, spoiled in one field, is of @type. */
static void check_desc(const uint8_t *buf, Field field, VHDXLogDescType type)
{
    uint8_t copy[32];
    VHDXLogDesc desc;

    memcpy(copy, buf, 32);
    put_le(copy + field.at, field.value, field.bytes);
    memset(&desc, 0xaa, sizeof(desc));
    vhdx_log_desc_decode(copy, SEQUENCE, &desc);
    if (desc.type != type) {
        g_test_message("offset %d: 0x%" PRIx64, field.at, field.value);
        g_test_fail();
    }
}

static void test_desc_data(void)
{
    static const uint8_t bytes[32] = {
        'd', 'e', 's', 'c', 0xf0, 0xf1, 0xf2, 0xf3, 1, 2, 3, 4, 5, 6, 7, 8,
        0, 0x10, 0x32, 0x54, 0x76, 0, 0, 0,
        0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88
    };
    static const Field good[] = {
        { 16, 8, 0 }, { 16, 8, 4096 }, { 16, 8, 0x7fffffffffffe000 },
        { 8, 8, UINT64_MAX }, { 4, 4, 0 },
    };
    static const Field bad[] = {
        { 0, 1, 'D' }, { 0, 4, 0 }, { 3, 1, 'k' },
        { 16, 8, 1 }, { 16, 8, 512 }, { 16, 8, 4097 },
        { 16, 8, 0x7ffffffffffff000 }, { 16, 8, 0x8000000000000000 },
        { 16, 8, 0xfffffffffffff000 },
        { 24, 8, 0 }, { 24, 1, 0x12 }, { 31, 1, 0x89 },
        { 24, 8, SEQUENCE + 1 },
    };
    VHDXLogDesc desc;

    vhdx_log_desc_decode(bytes, SEQUENCE, &desc);
    g_assert_cmpint(desc.type, ==, VHDX_LOG_DESC_DATA);
    g_assert_cmphex(desc.file_offset, ==, 0x7654321000);
    g_assert_cmphex(desc.sequence, ==, SEQUENCE);
    g_assert_cmpmem(desc.trailing, 4, bytes + 4, 4);
    g_assert_cmpmem(desc.leading, 8, bytes + 8, 8);

    for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
        check_desc(bytes, good[i], VHDX_LOG_DESC_DATA);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        check_desc(bytes, bad[i], VHDX_LOG_DESC_INVALID);
    }
}

static void test_desc_zero(void)
{
    static const uint8_t bytes[32] = {
        'z', 'e', 'r', 'o', 0, 0, 0, 0, 0, 0x20, 0, 0, 3, 0, 0, 0,
        0, 0x10, 0x32, 0x54, 0x76, 0, 0, 0,
        0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88
    };
    static const Field good[] = {
        { 8, 8, 4096 }, { 16, 8, 0 },
    };
    static const Field bad[] = {
        { 0, 1, 'Z' }, { 0, 4, 0 },
        { 8, 8, 1 }, { 8, 8, 512 }, { 8, 8, 4095 },
        { 8, 8, 0x7ffffffffffff000 }, { 8, 8, 0x8000000000000000 },
        { 8, 8, 0xfffffffffffff000 }, { 8, 8, UINT64_MAX },
        { 16, 8, 512 }, { 16, 8, 0x7ffffffffffff000 },
        { 16, 8, 0xfffffffffffff000 },
        { 24, 8, 0 }, { 24, 1, 0x12 }, { 31, 1, 0x89 },
    };
    VHDXLogDesc desc;

    vhdx_log_desc_decode(bytes, SEQUENCE, &desc);
    g_assert_cmpint(desc.type, ==, VHDX_LOG_DESC_ZERO);
    g_assert_cmphex(desc.file_offset, ==, 0x7654321000);
    g_assert_cmphex(desc.zero_length, ==, 0x300002000);
    g_assert_cmphex(desc.sequence, ==, SEQUENCE);

    for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
        check_desc(bytes, good[i], VHDX_LOG_DESC_ZERO);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        check_desc(bytes, bad[i], VHDX_LOG_DESC_INVALID);
    }
}

/* -- Data sectors -- */

static void test_data_valid(void)
{
    uint8_t sector[4096];

    memset(sector, 0x5a, sizeof(sector));
    memcpy(sector, "data", 4);
    put_le(sector + 4, 0x88776655, 4);
    put_le(sector + 4092, 0x44332211, 4);
    g_assert_true(vhdx_log_data_valid(sector, SEQUENCE));
    g_assert_false(vhdx_log_data_valid(sector, SEQUENCE + 1));
    g_assert_false(vhdx_log_data_valid(sector, SEQUENCE + 0x100000000));
    g_assert_false(vhdx_log_data_valid(sector, 0x44332211));
    for (int i = 0; i < 12; i++) {
        int at = i < 8 ? i : 4080 + i + 4;

        sector[at] ^= 0x20;
        g_assert_false(vhdx_log_data_valid(sector, SEQUENCE));
        sector[at] ^= 0x20;
    }
    sector[8] ^= 1;
    sector[4091] ^= 1;
    g_assert_true(vhdx_log_data_valid(sector, SEQUENCE));
}

static void test_data_decode(void)
{
    const VHDXLogDesc desc = {
        .type = VHDX_LOG_DESC_DATA,
        .leading = { 1, 2, 3, 4, 5, 6, 7, 8 },
        .trailing = { 9, 10, 11, 12 },
    };
    uint8_t sector[4096], page[4096], want[4096];

    memset(sector, 0x5a, sizeof(sector));
    memset(want, 0x5a, sizeof(want));
    memcpy(want, desc.leading, 8);
    memcpy(want + 4092, desc.trailing, 4);
    memcpy(sector, "data", 4);

    vhdx_log_data_decode(sector, &desc, page);
    g_assert_cmpmem(page, 4096, want, 4096);
    vhdx_log_data_decode(sector, &desc, sector);
    g_assert_cmpmem(sector, 4096, want, 4096);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/vhdx/log/size", test_size);
    g_test_add_func("/vhdx/log/encode/bytes", test_encode_bytes);
    g_test_add_func("/vhdx/log/encode/many", test_encode_many);
    g_test_add_func("/vhdx/log/header/good", test_decode_good);
    g_test_add_func("/vhdx/log/header/edges", test_decode_edges);
    g_test_add_func("/vhdx/log/header/bad", test_decode_bad);
    g_test_add_func("/vhdx/log/round-trip", test_round_trip);
    g_test_add_func("/vhdx/log/checksum", test_checksum);
    g_test_add_func("/vhdx/log/descriptor/data", test_desc_data);
    g_test_add_func("/vhdx/log/descriptor/zero", test_desc_zero);
    g_test_add_func("/vhdx/log/data/valid", test_data_valid);
    g_test_add_func("/vhdx/log/data/decode", test_data_decode);

    return g_test_run();
}
