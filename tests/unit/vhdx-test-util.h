/*
 * VHDX unit tests: making and taking apart bytes, without the driver
 *
 * What the tests expect is written down here a second time, slowly and plainly,
 * from the text of the format: little-endian integers byte by byte, CRC-32C bit
 * by bit, GUIDs from the way they are printed.  Nothing here calls the driver.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef TESTS_UNIT_VHDX_TEST_UTIL_H
#define TESTS_UNIT_VHDX_TEST_UTIL_H

#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/units.h"

#define GUID_REGION_BAT         "2DC27766-F623-4200-9D64-115E9BFD4A08"
#define GUID_REGION_METADATA    "8B7CA206-4790-4B9A-B8FE-575F050F886E"
#define GUID_FILE_PARAMETERS    "CAA16737-FA36-4D43-B3B6-33F0AA44E76B"
#define GUID_DISK_SIZE          "2FA54224-CD1B-4876-B211-5DBED83BF4B8"
#define GUID_DISK_ID            "BECA12AB-B2E6-4523-93EF-C309E000C746"
#define GUID_LOGICAL_SECTOR     "8141BF1D-A96F-4709-BA47-F233A8FAAB5F"
#define GUID_PHYSICAL_SECTOR    "CDA348C7-445D-4471-9CC9-E9885251C556"
#define GUID_PARENT_LOCATOR     "A8D35F2D-B30B-454D-ABF7-D3D84834AB0C"
#define GUID_UNFINISHED         "71CC85F0-1B69-4E28-9558-C3BF83AE75D3"

/* Put the low @bytes bytes of @value at @buf, least significant first. */
static inline void put_le(uint8_t *buf, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++) {
        buf[i] = value & 0xff;
        value >>= 8;
    }
}

/* The little-endian number of @bytes bytes at @buf. */
static inline uint64_t get_le(const uint8_t *buf, int bytes)
{
    return ldn_le_p(buf, bytes);
}

/* Put the 16 bytes of the GUID that is printed as @text at @buf. */
static inline void put_guid(uint8_t *buf, const char *text)
{
    unsigned first, second, third, last[8];
    int fields = sscanf(text, "%8x-%4x-%4x-%2x%2x-%2x%2x%2x%2x%2x%2x",
                        &first, &second, &third, &last[0], &last[1], &last[2],
                        &last[3], &last[4], &last[5], &last[6], &last[7]);

    g_assert_cmpint(fields, ==, 11);
    put_le(buf, first, 4);
    put_le(buf + 4, second, 2);
    put_le(buf + 6, third, 2);
    for (int i = 0; i < 8; i++) {
        buf[8 + i] = last[i];
    }
}

/* Whether the GUID at @buf is the one that is printed as @text. */
static inline bool guid_is(const uint8_t *buf, const char *text)
{
    uint8_t guid[16];

    put_guid(guid, text);
    return !memcmp(buf, guid, sizeof(guid));
}

/* CRC-32C of @bytes bytes at @buf. */
static inline uint32_t slow_crc32c(const uint8_t *buf, size_t bytes)
{
    uint32_t crc = 0xffffffff;

    for (size_t i = 0; i < bytes; i++) {
        for (int bit = 0; bit < 8; bit++) {
            bool carry = (crc ^ (buf[i] >> bit)) & 1;

            crc >>= 1;
            if (carry) {
                crc ^= 0x82f63b78;
            }
        }
    }
    return ~crc;
}

/* Put the checksum of @bytes bytes at @buf where all structures have it. */
static inline void seal(uint8_t *buf, size_t bytes)
{
    put_le(buf + 4, 0, 4);
    put_le(buf + 4, slow_crc32c(buf, bytes), 4);
}

/* A random number of 64 bits. */
static inline uint64_t rand64(GRand *rand)
{
    return (uint64_t)g_rand_int(rand) << 32 | g_rand_int(rand);
}

static inline void rand_fill(GRand *rand, uint8_t *buf, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        buf[i] = g_rand_int(rand);
    }
}

/*
 * Check that @err is set and names the field @name with its value @value,
 * letter case aside, and free it.
 */
static inline void expect_error(Error *err, const char *name,
                                const char *value)
{
    g_autofree char *text = NULL;
    g_autofree char *want_name = g_ascii_strdown(name, -1);
    g_autofree char *want_value = g_ascii_strdown(value, -1);

    g_assert_nonnull(err);
    text = g_ascii_strdown(error_get_pretty(err), -1);
    if (!strstr(text, want_name) || !strstr(text, want_value)) {
        g_test_message("\"%s\" does not have \"%s\" and \"%s\"", text,
                       want_name, want_value);
        g_test_fail();
    }
    error_free(err);
}

#endif
