/*
 * VHDX unit tests: GUIDs, checksums, the file identifier and the headers
 *
 * Bytes are written out by hand, or by vhdx-test-util.h, and compared with
 * what the driver's encoders make; the decoders get the same bytes, and bytes
 * with every kind of damage.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/format.h"
#include "block/vhdx/tables.h"
#include "vhdx-test-util.h"

/* -- GUIDs -- */

static void test_guid_bytes(void)
{
    /* 2DC27766-F623-4200-9D64-115E9BFD4A08, as it stands in a file */
    static const uint8_t bytes[16] = {
        0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42,
        0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08
    };
    VHDXGuid guid = vhdx_guid_decode(bytes);
    char text[UUID_STR_LEN];
    uint8_t back[16];

    uuid_unparse_lower(guid.id, text);
    g_assert_cmpint(g_ascii_strcasecmp(text, GUID_REGION_BAT), ==, 0);
    vhdx_guid_encode(&guid, back);
    g_assert_cmpmem(back, 16, bytes, 16);
}

static void test_guid_known(void)
{
    static const struct {
        const VHDXGuid *guid;
        const char *text;
    } known[] = {
        { &vhdx_guid_nil, "00000000-0000-0000-0000-000000000000" },
        { &vhdx_region_bat, GUID_REGION_BAT },
        { &vhdx_region_metadata, GUID_REGION_METADATA },
        { &vhdx_item_file_parameters, GUID_FILE_PARAMETERS },
        { &vhdx_item_disk_size, GUID_DISK_SIZE },
        { &vhdx_item_disk_id, GUID_DISK_ID },
        { &vhdx_item_logical_sector, GUID_LOGICAL_SECTOR },
        { &vhdx_item_physical_sector, GUID_PHYSICAL_SECTOR },
        { &vhdx_item_parent_locator, GUID_PARENT_LOCATOR },
        { &vhdx_item_unfinished, GUID_UNFINISHED },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
        uint8_t want[16], got[16];

        put_guid(want, known[i].text);
        vhdx_guid_encode(known[i].guid, got);
        g_assert_cmpmem(got, 16, want, 16);
        for (size_t j = 0; j < G_N_ELEMENTS(known); j++) {
            g_assert_cmpint(vhdx_guid_equal(known[i].guid, known[j].guid), ==,
                            i == j);
        }
        g_assert_cmpint(vhdx_guid_is_nil(known[i].guid), ==, i == 0);
    }
}

static void test_guid_round_trip(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);

    for (int i = 0; i < 1000; i++) {
        uint8_t bytes[16], back[16];
        VHDXGuid guid;

        rand_fill(rand, bytes, 16);
        guid = vhdx_guid_decode(bytes);
        vhdx_guid_encode(&guid, back);
        g_assert_cmpmem(back, 16, bytes, 16);
    }
}

static void test_guid_new(void)
{
    VHDXGuid a = vhdx_guid_new();
    VHDXGuid b = vhdx_guid_new();

    g_assert_false(vhdx_guid_is_nil(&a));
    g_assert_false(vhdx_guid_equal(&a, &b));
    /* a random GUID of the kind all tools know: version 4 */
    g_assert_cmpint(a.id[6] >> 4, ==, 4);
    g_assert_cmpint(a.id[8] >> 6, ==, 2);
}

/* -- Checksums -- */

static void test_crc_known(void)
{
    /* 32 zero bytes, an example of RFC 3720, B.4 */
    uint8_t zeros[32] = { 0 };
    const uint8_t *digits = (const uint8_t *)"123456789";

    g_assert_cmphex(slow_crc32c(digits, 9), ==, 0xe3069283);
    g_assert_cmphex(vhdx_log_checksum_update(0, digits, 9, false), ==,
                    0xe3069283);
    g_assert_cmphex(slow_crc32c(zeros, 32), ==, 0x8a9136aa);
    g_assert_cmphex(vhdx_checksum(zeros, 32, 4), ==, 0x8a9136aa);
}

static void test_crc_field(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(2);

    for (int i = 0; i < 200; i++) {
        size_t bytes = g_rand_int_range(rand, 4, 300);
        size_t field = g_rand_int_range(rand, 0, bytes - 3);
        uint8_t buf[300], copy[300];
        uint32_t got;

        rand_fill(rand, buf, bytes);
        memcpy(copy, buf, bytes);
        got = vhdx_checksum(buf, bytes, field);
        g_assert_cmpmem(buf, bytes, copy, bytes);
        put_le(copy + field, 0, 4);
        g_assert_cmphex(got, ==, slow_crc32c(copy, bytes));
    }
}

/* -- File identifier -- */

static void test_file_id_encode(void)
{
    /* Q E M U, U with dots, and a character that takes two units */
    static const uint8_t want[] = {
        'v', 'h', 'd', 'x', 'f', 'i', 'l', 'e', 'Q', 0, 'E', 0, 'M', 0, 'U', 0,
        0xdc, 0, 0x3d, 0xd8, 0x00, 0xde
    };
    g_autofree uint8_t *got = g_malloc(VHDX_FILE_ID_SIZE);
    g_autofree char *creator = NULL;

    memset(got, 0xaa, VHDX_FILE_ID_SIZE);
    vhdx_file_id_encode("QEMU\u00dc\U0001f600", got);
    g_assert_cmpmem(got, sizeof(want), want, sizeof(want));
    for (size_t i = sizeof(want); i < 64 * KiB; i++) {
        g_assert_cmphex(got[i], ==, 0);
    }
    g_assert_true(vhdx_file_id_valid(got, VHDX_FILE_ID_SIZE));
    creator = vhdx_creator_decode(got);
    g_assert_cmpstr(creator, ==, "QEMU\u00dc\U0001f600");
}

static void test_file_id_long(void)
{
    g_autofree uint8_t *got = g_malloc(VHDX_FILE_ID_SIZE);
    g_autofree char *name = g_strnfill(300, 'x');
    g_autofree char *creator = NULL;

    vhdx_file_id_encode(name, got);
    for (int i = 0; i < 256; i++) {
        g_assert_cmphex(get_le(got + 8 + 2 * i, 2), ==, 'x');
    }
    for (size_t i = 8 + 512; i < 64 * KiB; i++) {
        g_assert_cmphex(got[i], ==, 0);
    }
    creator = vhdx_creator_decode(got);
    name[256] = 0;
    g_assert_cmpstr(creator, ==, name);
}

/* A name is not cut inside a character that takes two units. */
static void test_file_id_pair(void)
{
    g_autofree uint8_t *got = g_malloc(VHDX_FILE_ID_SIZE);
    g_autofree char *start = g_strnfill(255, 'x');
    g_autofree char *name = g_strconcat(start, "\U0001f600", NULL);
    g_autofree char *creator = NULL;

    vhdx_file_id_encode(name, got);
    creator = vhdx_creator_decode(got);
    g_assert_cmpstr(creator, ==, start);
    g_free(creator);
    vhdx_file_id_encode(name + 1, got);
    creator = vhdx_creator_decode(got);
    g_assert_cmpstr(creator, ==, name + 1);
}

static void test_file_id_no_text(void)
{
    g_autofree uint8_t *got = g_malloc(VHDX_FILE_ID_SIZE);
    static const char *const names[] = { "", "\xff\xfe" };

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        memset(got, 0xaa, VHDX_FILE_ID_SIZE);
        vhdx_file_id_encode(names[i], got);
        g_assert_cmpmem(got, 8, "vhdxfile", 8);
        for (size_t j = 8; j < 64 * KiB; j++) {
            g_assert_cmphex(got[j], ==, 0);
        }
    }
}

static void test_file_id_valid(void)
{
    uint8_t buf[16] = "vhdxfile\xff\xff\xff\xff";

    g_assert_true(vhdx_file_id_valid(buf, sizeof(buf)));
    g_assert_true(vhdx_file_id_valid(buf, 8));
    for (size_t bytes = 0; bytes < 8; bytes++) {
        g_assert_false(vhdx_file_id_valid(buf, bytes));
    }
    for (int i = 0; i < 8; i++) {
        buf[i] ^= 0x20;
        g_assert_false(vhdx_file_id_valid(buf, sizeof(buf)));
        buf[i] ^= 0x20;
    }
}

/* What the creator @units, @count UTF-16 units and then @fill, is read as. */
static char *creator_of(const uint16_t *units, int count, uint16_t fill)
{
    /* just what the contract says: a sanitizer sees a read beyond the end */
    g_autofree uint8_t *buf = g_malloc(8 + 512);

    for (int i = 0; i < 256; i++) {
        put_le(buf + 8 + 2 * i, i < count ? units[i] : fill, 2);
    }
    memcpy(buf, "vhdxfile", 8);
    return vhdx_creator_decode(buf);
}

static void test_creator_decode(void)
{
    static const uint16_t ended[] = { 'M', 's', 0, 'x', 'y' };
    static const uint16_t lone[] = { 'M', 0xd83d, 'x' };
    static const uint16_t pair[] = { 0xd83d, 0xde00 };
    g_autofree char *a = creator_of(ended, 5, 'z');
    g_autofree char *b = creator_of(lone, 3, 0);
    g_autofree char *c = creator_of(NULL, 0, 0);
    g_autofree char *d = creator_of(NULL, 0, 0xffff);
    g_autofree char *e = creator_of(pair, 2, 0);
    g_autofree char *f = creator_of(NULL, 0, 0x20ac);

    g_assert_cmpstr(a, ==, "Ms");
    g_assert_cmpstr(b, ==, "");
    g_assert_cmpstr(c, ==, "");
    g_assert_cmpint(g_utf8_validate(d, -1, NULL), ==, true);
    g_assert_cmpstr(e, ==, "\U0001f600");
    g_assert_cmpint(g_utf8_strlen(f, -1), ==, 256);
}

/* The text in @count units, with others behind them. */
static char *text_of(const uint16_t *units, size_t count)
{
    uint8_t buf[32];

    memset(buf, 'x', sizeof(buf));
    for (size_t i = 0; i < count; i++) {
        put_le(buf + 2 * i, units[i], 2);
    }
    return vhdx_text_decode(buf, count);
}

static void test_text_decode(void)
{
    static const struct {
        uint16_t units[8];
        size_t count;
        const char *text;           /* NULL: it is none */
    } known[] = {
        { { 0 }, 0, "" },
        { { 'a' }, 1, "a" },
        { { 'a', 'b', 'c' }, 3, "abc" },
        { { 0, 'b', 'c' }, 3, "" },
        { { 'a', 0, 0xd800 }, 3, "a" },
        { { 0xe4, 0x20ac, 0xfffd }, 3, "\u00e4\u20ac\ufffd" },
        { { 0xd83d, 0xde00 }, 2, "\U0001f600" },
        /* What moves the cursor, or more, of a terminal */
        { { 0x1b, '[', '2', 'J' }, 4, "\ufffd[2J" },
        { { 7, 'a', '\n', 0x7f }, 4, "\ufffd" "a\ufffd\ufffd" },
        { { 0x9b, 0x85 }, 2, "\ufffd\ufffd" },
        /* Halves of pairs */
        { { 0xd83d }, 1, NULL },
        { { 0xd83d, 'a' }, 2, NULL },
        { { 'a', 0xde00 }, 2, NULL },
        { { 0xde00, 0xd83d }, 2, NULL },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
        g_autofree char *text = text_of(known[i].units, known[i].count);

        g_assert_cmpstr(text, ==, known[i].text);
    }
}

/* -- Files that are something else -- */

static void test_other_format(void)
{
    static const struct {
        size_t at;
        size_t bytes;
        uint8_t magic[24];
        const char *word;           /* that the message has */
    } known[] = {
        { 0, 8, { 'c', 'o', 'n', 'e', 'c', 't', 'i', 'x' }, "-f vpc" },
        { 0, 4, { 'Q', 'F', 'I', 0xfb }, "-f qcow2" },
        { 0, 4, { 'K', 'D', 'M', 'V' }, "-f vmdk" },
        { 0, 21, "# Disk DescriptorFile", "-f vmdk" },
        { 64, 4, { 0x7f, 0x10, 0xda, 0xbe }, "-f vdi" },
        { 0, 4, { 'Q', 'E', 'D', 0 }, "-f qed" },
        { 0, 6, { 'L', 'U', 'K', 'S', 0xba, 0xbe }, "-f luks" },
        { 0, 3, { 0x1f, 0x8b, 8 }, "gzip" },
        { 0, 6, { 0xfd, '7', 'z', 'X', 'Z', 0 }, "xz" },
        { 0, 4, { 'P', 'K', 3, 4 }, "zip" },
        { 0, 3, { 'B', 'Z', 'h' }, "bzip2" },
        { 0, 4, { 0x28, 0xb5, 0x2f, 0xfd }, "zstd" },
        { 0, 6, { '7', 'z', 0xbc, 0xaf, 0x27, 0x1c }, "7z" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
        size_t end = known[i].at + known[i].bytes;
        uint8_t buf[128] = { 0 };
        const char *what;

        memcpy(buf + known[i].at, known[i].magic, known[i].bytes);
        what = vhdx_other_format(buf, sizeof(buf));
        g_assert_nonnull(what);
        g_assert_nonnull(strstr(what, known[i].word));
        g_assert_cmpstr(vhdx_other_format(buf, end), ==, what);
        g_assert_null(vhdx_other_format(buf, end - 1));
        g_assert_null(vhdx_other_format(buf, 0));
        for (size_t j = known[i].at; j < end; j++) {
            buf[j] ^= 0x40;
            g_assert_null(vhdx_other_format(buf, sizeof(buf)));
            buf[j] ^= 0x40;
        }
    }
}

static void test_other_format_unknown(void)
{
    uint8_t buf[128] = { 0 };

    g_assert_null(vhdx_other_format(buf, sizeof(buf)));
    memcpy(buf, "vhdxfile", 8);
    g_assert_null(vhdx_other_format(buf, sizeof(buf)));
    memset(buf, 0xff, sizeof(buf));
    g_assert_null(vhdx_other_format(buf, sizeof(buf)));
}

/* -- Headers -- */

#define FILE_WRITE_GUID "01020304-0506-0708-090A-0B0C0D0E0F10"
#define DATA_WRITE_GUID "11121314-1516-1718-191A-1B1C1D1E1F20"
#define LOG_GUID        "21222324-2526-2728-292A-2B2C2D2E2F30"

static VHDXGuid guid_of(const char *text)
{
    VHDXGuid guid;

    g_assert_cmpint(uuid_parse(text, guid.id), ==, 0);
    return guid;
}

static VHDXHeader sample_header(void)
{
    return (VHDXHeader) {
        .sequence = 0x1122334455667788,
        .file_write_guid = guid_of(FILE_WRITE_GUID),
        .data_write_guid = guid_of(DATA_WRITE_GUID),
        .log_guid = guid_of(LOG_GUID),
        .log_version = 0,
        .version = 1,
        .log_length = 0x00300000,
        .log_offset = 0x0000004000100000,
    };
}

/* The same header as bytes, its checksum included. */
static void sample_header_bytes(uint8_t *buf)
{
    static const uint8_t start[80] = {
        'h', 'e', 'a', 'd', 0, 0, 0, 0,
        0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,
        0x04, 0x03, 0x02, 0x01, 0x06, 0x05, 0x08, 0x07,
        0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x10,
        0x14, 0x13, 0x12, 0x11, 0x16, 0x15, 0x18, 0x17,
        0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0x20,
        0x24, 0x23, 0x22, 0x21, 0x26, 0x25, 0x28, 0x27,
        0x29, 0x2a, 0x2b, 0x2c, 0x2d, 0x2e, 0x2f, 0x30,
        0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x30, 0x00,
        0x00, 0x00, 0x10, 0x00, 0x40, 0x00, 0x00, 0x00,
    };

    memset(buf, 0, 4096);
    memcpy(buf, start, sizeof(start));
    seal(buf, 4096);
}

static void assert_header_equal(const VHDXHeader *a, const VHDXHeader *b)
{
    g_assert_cmphex(a->sequence, ==, b->sequence);
    g_assert_true(vhdx_guid_equal(&a->file_write_guid, &b->file_write_guid));
    g_assert_true(vhdx_guid_equal(&a->data_write_guid, &b->data_write_guid));
    g_assert_true(vhdx_guid_equal(&a->log_guid, &b->log_guid));
    g_assert_cmpint(a->log_version, ==, b->log_version);
    g_assert_cmpint(a->version, ==, b->version);
    g_assert_cmphex(a->log_length, ==, b->log_length);
    g_assert_cmphex(a->log_offset, ==, b->log_offset);
}

static void test_header_encode(void)
{
    VHDXHeader header = sample_header();
    uint8_t want[4096], got[4096];

    sample_header_bytes(want);
    memset(got, 0xaa, sizeof(got));
    vhdx_header_encode(&header, got);
    g_assert_cmpmem(got, 4096, want, 4096);
}

static void test_header_decode(void)
{
    VHDXHeader want = sample_header(), got;
    uint8_t buf[4096];

    sample_header_bytes(buf);
    g_assert_true(vhdx_header_decode(buf, &got));
    assert_header_equal(&got, &want);

    /* what is reserved is covered by the checksum, but not judged */
    buf[4095] = 1;
    seal(buf, 4096);
    g_assert_true(vhdx_header_decode(buf, &got));
    assert_header_equal(&got, &want);
}

static void test_header_bad_crc(void)
{
    uint8_t buf[4096];
    VHDXHeader header, before;

    memset(&header, 0x55, sizeof(header));
    before = header;
    sample_header_bytes(buf);
    for (size_t i = 4; i < 4096; i++) {
        buf[i] ^= 0x10;
        g_assert_false(vhdx_header_decode(buf, &header));
        buf[i] ^= 0x10;
    }
    g_assert_cmpmem(&header, sizeof(header), &before, sizeof(before));
    g_assert_true(vhdx_header_decode(buf, &header));
}

static void test_header_bad_signature(void)
{
    uint8_t buf[4096];
    VHDXHeader header, before;

    memset(&header, 0x55, sizeof(header));
    before = header;
    for (int i = 0; i < 4; i++) {
        sample_header_bytes(buf);
        buf[i] ^= 0x20;
        seal(buf, 4096);
        g_assert_false(vhdx_header_decode(buf, &header));
    }
    memset(buf, 0, sizeof(buf));
    g_assert_false(vhdx_header_decode(buf, &header));
    g_assert_cmpmem(&header, sizeof(header), &before, sizeof(before));
}

static void test_header_round_trip(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(3);

    for (int i = 0; i < 200; i++) {
        uint8_t buf[4096], back[4096];
        VHDXHeader header;

        memset(buf, 0, sizeof(buf));
        memcpy(buf, "head", 4);
        rand_fill(rand, buf + 8, 72);
        seal(buf, sizeof(buf));
        g_assert_true(vhdx_header_decode(buf, &header));
        vhdx_header_encode(&header, back);
        g_assert_cmpmem(back, 4096, buf, 4096);
    }
}

static void test_choose_neither(void)
{
    VHDXHeader headers[2] = { sample_header(), sample_header() };
    const bool valid[2] = { false, false };
    Error *err = NULL;

    g_assert_cmpint(vhdx_header_choose(headers, valid, &err), ==, -1);
    expect_error(err, "header", "valid");
}

/* One copy is damaged; what it seems to hold must not count. */
static void test_choose_only(void)
{
    for (int good = 0; good < 2; good++) {
        VHDXHeader headers[2] = { sample_header(), sample_header() };
        bool valid[2] = { false, false };

        valid[good] = true;
        g_assert_cmpint(vhdx_header_choose(headers, valid, &error_abort), ==,
                        good);
        headers[!good].sequence += 1;
        g_assert_cmpint(vhdx_header_choose(headers, valid, &error_abort), ==,
                        good);
        headers[!good].sequence = UINT64_MAX;
        headers[!good].log_offset = 12345;
        g_assert_cmpint(vhdx_header_choose(headers, valid, &error_abort), ==,
                        good);
    }
}

static void test_choose_newer(void)
{
    static const uint64_t pairs[][2] = {
        { 0, 1 }, { 1, 2 }, { 7, 8 }, { 1, UINT64_MAX },
        { 0xffffffff, 0x100000000 }, { INT64_MAX, (uint64_t)INT64_MAX + 1 },
        { UINT64_MAX - 1, UINT64_MAX }, { 0, UINT64_MAX },
    };
    const bool valid[2] = { true, true };

    for (size_t i = 0; i < G_N_ELEMENTS(pairs); i++) {
        VHDXHeader headers[2] = { sample_header(), sample_header() };

        headers[0].sequence = pairs[i][0];
        headers[1].sequence = pairs[i][1];
        g_assert_cmpint(vhdx_header_choose(headers, valid, &error_abort), ==,
                        1);
        headers[0].sequence = pairs[i][1];
        headers[1].sequence = pairs[i][0];
        g_assert_cmpint(vhdx_header_choose(headers, valid, &error_abort), ==,
                        0);
    }
}

static void test_choose_identical(void)
{
    const VHDXHeader headers[2] = { sample_header(), sample_header() };
    const bool valid[2] = { true, true };
    int choice = vhdx_header_choose(headers, valid, &error_abort);

    g_assert_true(choice == 0 || choice == 1);
}

static void test_choose_conflict(void)
{
    const bool valid[2] = { true, true };

    for (int field = 0; field < 7; field++) {
        VHDXHeader headers[2] = { sample_header(), sample_header() };
        VHDXHeader *h = &headers[field % 2];
        Error *err = NULL;

        h->file_write_guid.id[15] ^= field == 0;
        h->data_write_guid.id[0] ^= field == 1;
        h->log_guid.id[7] ^= field == 2;
        h->log_version += field == 3;
        h->version += field == 4;
        h->log_length += field == 5 ? MiB : 0;
        h->log_offset += field == 6 ? MiB : 0;
        g_assert_cmpint(vhdx_header_choose(headers, valid, &err), ==, -1);
        expect_error(err, "SequenceNumber", "1234605616436508552");
    }
}

/* Check that @header is refused with @ret, field and value named. */
static void refuse_header(const VHDXHeader *header, int ret, const char *name,
                          uint64_t value)
{
    g_autofree char *text = g_strdup_printf("%" PRIu64, value);
    Error *err = NULL;

    g_assert_cmpint(vhdx_header_check(header, &err), ==, ret);
    expect_error(err, name, text);
}

static void test_check_good(void)
{
    VHDXHeader header = sample_header();

    g_assert_cmpint(vhdx_header_check(&header, &error_abort), ==, 0);
    header.log_offset = MiB;
    header.log_length = MiB;
    g_assert_cmpint(vhdx_header_check(&header, &error_abort), ==, 0);
    header.log_length = 0xfff00000;
    g_assert_cmpint(vhdx_header_check(&header, &error_abort), ==, 0);
    header.log_guid = vhdx_guid_nil;
    g_assert_cmpint(vhdx_header_check(&header, &error_abort), ==, 0);
}

static void test_check_version(void)
{
    VHDXHeader header = sample_header();

    for (int nil = 0; nil < 2; nil++) {
        header.version = 0;
        refuse_header(&header, -ENOTSUP, "Version", 0);
        header.version = 2;
        refuse_header(&header, -ENOTSUP, "Version", 2);
        header.version = 65535;
        refuse_header(&header, -ENOTSUP, "Version", 65535);
        header.log_guid = vhdx_guid_nil;
    }
}

static void test_check_log_version(void)
{
    VHDXHeader header = sample_header();

    header.log_version = 1;
    refuse_header(&header, -ENOTSUP, "LogVersion", 1);
    header.log_version = 65535;
    refuse_header(&header, -ENOTSUP, "LogVersion", 65535);
    /* a log that is not used may be of any version */
    header.log_guid = vhdx_guid_nil;
    g_assert_cmpint(vhdx_header_check(&header, &error_abort), ==, 0);
}

static void test_check_log_length(void)
{
    static const uint32_t bad[] = {
        0, 1, 4096, MiB - 1, MiB + 4096, 0xffffffff
    };
    VHDXHeader header = sample_header();

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        header.log_length = bad[i];
        refuse_header(&header, -EINVAL, "LogLength", bad[i]);
    }
}

static void test_check_log_offset(void)
{
    static const uint64_t bad[] = {
        0, 4096, MiB - 1, MiB + 1, MiB + 512 * KiB, 0x7ffffffffff00000,
        0x8000000000000000, 0xfffffffffff00000, UINT64_MAX
    };
    VHDXHeader header = sample_header();

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        header.log_offset = bad[i];
        refuse_header(&header, -EINVAL, "LogOffset", bad[i]);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/vhdx/format/guid/bytes", test_guid_bytes);
    g_test_add_func("/vhdx/format/guid/known", test_guid_known);
    g_test_add_func("/vhdx/format/guid/round-trip", test_guid_round_trip);
    g_test_add_func("/vhdx/format/guid/new", test_guid_new);

    g_test_add_func("/vhdx/format/crc/known", test_crc_known);
    g_test_add_func("/vhdx/format/crc/field-as-zero", test_crc_field);

    g_test_add_func("/vhdx/format/file-id/encode", test_file_id_encode);
    g_test_add_func("/vhdx/format/file-id/long-creator", test_file_id_long);
    g_test_add_func("/vhdx/format/file-id/cut-in-pair", test_file_id_pair);
    g_test_add_func("/vhdx/format/file-id/no-creator", test_file_id_no_text);
    g_test_add_func("/vhdx/format/file-id/signature", test_file_id_valid);
    g_test_add_func("/vhdx/format/file-id/decode-creator",
                    test_creator_decode);
    g_test_add_func("/vhdx/format/text", test_text_decode);
    g_test_add_func("/vhdx/format/other/known", test_other_format);
    g_test_add_func("/vhdx/format/other/unknown", test_other_format_unknown);

    g_test_add_func("/vhdx/format/header/encode", test_header_encode);
    g_test_add_func("/vhdx/format/header/decode", test_header_decode);
    g_test_add_func("/vhdx/format/header/bad-crc", test_header_bad_crc);
    g_test_add_func("/vhdx/format/header/bad-signature",
                    test_header_bad_signature);
    g_test_add_func("/vhdx/format/header/round-trip", test_header_round_trip);

    g_test_add_func("/vhdx/format/choose/neither-valid", test_choose_neither);
    g_test_add_func("/vhdx/format/choose/only-one-valid", test_choose_only);
    g_test_add_func("/vhdx/format/choose/newer", test_choose_newer);
    g_test_add_func("/vhdx/format/choose/identical", test_choose_identical);
    g_test_add_func("/vhdx/format/choose/conflict", test_choose_conflict);

    g_test_add_func("/vhdx/format/check/good", test_check_good);
    g_test_add_func("/vhdx/format/check/version", test_check_version);
    g_test_add_func("/vhdx/format/check/log-version", test_check_log_version);
    g_test_add_func("/vhdx/format/check/log-length", test_check_log_length);
    g_test_add_func("/vhdx/format/check/log-offset", test_check_log_offset);

    return g_test_run();
}
