/*
 * virstoragefilevhdxtest.c: test of the reader of VHDX images
 *
 * Each case changes a few bytes of an image that is built in memory, and says
 * what the reader makes of it.
 *
 * This library is free software; you can redistribute it and/or
 * modify it under the terms of the GNU Lesser General Public
 * License as published by the Free Software Foundation; either
 * version 2.1 of the License, or (at your option) any later version.
 *
 * This library is distributed in the hope that it will be useful,
 * but WITHOUT ANY WARRANTY; without even the implied warranty of
 * MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE.  See the GNU
 * Lesser General Public License for more details.
 *
 * You should have received a copy of the GNU Lesser General Public
 * License along with this library.  If not, see
 * <http://www.gnu.org/licenses/>.
 */

#include <config.h>

#include "storage_file_vhdx.h"
#include "testutils.h"
#include "virerror.h"
#include "virstoragefilevhdxdata.h"

#define VIR_FROM_THIS VIR_FROM_NONE

#define KIB 1024ULL
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

/* Places in the image */
#define HEADER1 (64 * KIB)
#define HEADER2 (128 * KIB)
#define REGIONS1 (192 * KIB)
#define REGIONS2 (256 * KIB)
#define METADATA (2 * MIB)
#define REGION(n) (REGIONS1 + 16 + (n) * 32)
#define ITEM(n) (METADATA + 32 + (n) * 32)
#define ITEM_PARAMETERS 0
#define ITEM_SIZE 1
#define ITEM_SECTOR 3
#define ITEM_LOCATOR 5
#define PARAMETERS (METADATA + 64 * KIB)
#define DISK_SIZE (PARAMETERS + 8)
#define DISK_ID (PARAMETERS + 16)
#define SECTOR (PARAMETERS + 32)
#define LOCATOR (PARAMETERS + 1024)
#define LOCATOR_LEN 4096
#define FILE_LEN (3 * MIB)

/* So many bytes of the image are given another value. */
typedef struct {
    unsigned int bytes;
    unsigned long long at;
    unsigned long long value;
} Change;

typedef struct {
    const char *name;
    Change changes[4];
    unsigned long long length;  /* of the file, if it is another */
    bool second;                /* only the second copies are sound */
    bool broken;                /* no checksum is made right again */
    /* What the locator holds; one of them makes it a differencing image */
    const char *relative;
    const char *volume;
    const char *absolute;
    /* Either an error, or what is read */
    const char *error;
    unsigned long long capacity;
    unsigned int blockSize;
    unsigned int sectorSize;
    bool fixed;
    const char *parents;
} Case;

typedef struct {
    unsigned char *bytes;
    unsigned long long length;
    size_t reads;
    size_t longest;
    bool fails;
} Image;


/* A GUID from its text, as it is stored */
static void
putGUID(unsigned char *bytes,
        const char *text)
{
    static const size_t order[] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(order); i++) {
        while (*text == '-')
            text++;
        bytes[order[i]] = g_ascii_xdigit_value(text[0]) * 16 + g_ascii_xdigit_value(text[1]);
        text += 2;
    }
}


static size_t
putText(unsigned char *bytes,
        const char *text)
{
    size_t i;

    for (i = 0; text[i]; i++)
        put(bytes + 2 * i, 2, text[i]);
    return 2 * i;
}


static void
putItem(unsigned char *bytes,
        size_t n,
        const char *guid,
        unsigned long long at,
        unsigned int length,
        unsigned int flags)
{
    unsigned char *entry = bytes + ITEM(n);

    putGUID(entry, guid);
    put(entry + 16, 4, at - METADATA);
    put(entry + 20, 4, length);
    put(entry + 24, 4, flags);
    put(bytes + METADATA + 10, 2, n + 1);
}


static void
putLocator(unsigned char *bytes,
           const Case *c)
{
    const char *texts[][2] = {
        { "parent_linkage", "{f88d4d92-6fcc-408d-9bef-9b7c89f15c89}" },
        { "absolute_win32_path", c->absolute },
        { "relative_path", c->relative },
        { "volume_path", c->volume },
    };
    unsigned char *locator = bytes + LOCATOR;
    size_t used = 512;
    size_t count = 0;
    size_t i;
    size_t part;

    put(bytes + PARAMETERS + 4, 4, 2);
    putItem(bytes, ITEM_LOCATOR, "a8d35f2d-b30b-454d-abf7-d3d84834ab0c", LOCATOR, LOCATOR_LEN, 4);
    putGUID(locator, "b04aefb7-d19e-4a81-b789-25b8e9445913");

    for (i = 0; i < G_N_ELEMENTS(texts); i++) {
        unsigned char *entry = locator + 20 + 12 * count;

        if (!texts[i][1])
            continue;

        for (part = 0; part < 2; part++) {
            size_t length = putText(locator + used, texts[i][part]);

            put(entry + 4 * part, 4, used);
            put(entry + 8 + 2 * part, 2, length);
            used += length;
        }
        count++;
    }
    put(locator + 18, 2, count);
}


/* A dynamic image of 1 GiB */
static unsigned char *
makeImage(const Case *c)
{
    unsigned char *bytes = g_new0(unsigned char, FILE_LEN);
    size_t i;

    memcpy(bytes, "vhdxfile", 8);
    for (i = 0; i < 2; i++) {
        unsigned char *header = bytes + (i ? HEADER2 : HEADER1);
        unsigned char *regions = bytes + (i ? REGIONS2 : REGIONS1);

        memcpy(header, "head", 4);
        put(header + 8, 8, 5 + i);
        put(header + 66, 2, 1);

        memcpy(regions, "regi", 4);
        put(regions + 8, 4, 2);
        putGUID(regions + 16, "2dc27766-f623-4200-9d64-115e9bfd4a08");
        put(regions + 32, 8, 3 * MIB);
        put(regions + 40, 4, MIB);
        put(regions + 44, 4, 1);
        putGUID(regions + 48, "8b7ca206-4790-4b9a-b8fe-575f050f886e");
        put(regions + 64, 8, METADATA);
        put(regions + 72, 4, MIB);
        put(regions + 76, 4, 1);
    }

    memcpy(bytes + METADATA, "metadata", 8);
    putItem(bytes, ITEM_PARAMETERS, "caa16737-fa36-4d43-b3b6-33f0aa44e76b", PARAMETERS, 8, 4);
    putItem(bytes, ITEM_SIZE, "2fa54224-cd1b-4876-b211-5dbed83bf4b8", DISK_SIZE, 8, 6);
    putItem(bytes, 2, "beca12ab-b2e6-4523-93ef-c309e000c746", DISK_ID, 16, 6);
    putItem(bytes, ITEM_SECTOR, "8141bf1d-a96f-4709-ba47-f233a8faab5f", SECTOR, 4, 6);
    putItem(bytes, 4, "cda348c7-445d-4471-9cc9-e9885251c556", SECTOR + 4, 4, 6);
    put(bytes + PARAMETERS, 4, 8 * MIB);
    put(bytes + DISK_SIZE, 8, GIB);
    put(bytes + SECTOR, 4, 512);
    put(bytes + SECTOR + 4, 4, 4096);
    if (c->relative || c->volume || c->absolute)
        putLocator(bytes, c);

    for (i = 0; i < 2 && !c->broken; i++) {
        seal(bytes + (i ? HEADER2 : HEADER1), 4 * KIB);
        seal(bytes + (i ? REGIONS2 : REGIONS1), 64 * KIB);
    }

    for (i = 0; i < G_N_ELEMENTS(c->changes); i++)
        put(bytes + c->changes[i].at, c->changes[i].bytes, c->changes[i].value);

    if (c->second) {
        put(bytes + HEADER1 + 100, 1, 1);
        put(bytes + REGIONS1 + 65000, 1, 1);
    } else if (!c->broken) {
        /* The first table is read, the second header is the current one. */
        seal(bytes + HEADER1, 4 * KIB);
        seal(bytes + HEADER2, 4 * KIB);
        seal(bytes + REGIONS1, 64 * KIB);
    }

    return bytes;
}


static ssize_t
readImage(unsigned long long offset,
          char *buf,
          size_t length,
          void *opaque)
{
    Image *image = opaque;
    size_t n = 0;

    if (image->fails) {
        virReportSystemError(EIO, "cannot read at offset %llu", offset);
        return -1;
    }

    image->reads++;
    image->longest = MAX(image->longest, length);
    if (offset < image->length) {
        n = MIN(length, image->length - offset);
        memcpy(buf, image->bytes + offset, n);
    }
    return n;
}


static int
testCase(const void *opaque)
{
    const Case *c = opaque;
    g_autofree unsigned char *bytes = makeImage(c);
    Image file = { .bytes = bytes, .length = c->length ? c->length : FILE_LEN };
    g_autoptr(virStorageFileVHDX) image = NULL;
    g_autofree char *parents = NULL;
    int rc = virStorageFileVHDXOpen("/dir/test.vhdx", readImage, &file, &image);

    if (file.reads > 10 || file.longest > 64 * KIB) {
        fprintf(stderr, "%zu reads of up to %zu bytes\n", file.reads, file.longest);
        return -1;
    }

    if (c->error) {
        const char *message = virGetLastErrorMessage();

        if (rc == 0 || image) {
            fprintf(stderr, "opened, and should fail with: %s\n", c->error);
            return -1;
        }
        if (!strstr(message, "damaged VHDX image '/dir/test.vhdx': ") ||
            !strstr(message, c->error)) {
            fprintf(stderr, "fails with: %s\nnot: %s\n", message, c->error);
            return -1;
        }
        return 0;
    }

    if (rc < 0) {
        fprintf(stderr, "fails with: %s\n", virGetLastErrorMessage());
        return -1;
    }

    parents = image->parents ? g_strjoinv("|", image->parents) : NULL;
    if (image->capacity != c->capacity ||
        image->blockSize != c->blockSize ||
        image->sectorSize != c->sectorSize ||
        image->fixed != c->fixed ||
        STRNEQ_NULLABLE(parents, c->parents)) {
        fprintf(stderr, "capacity %llu, block %u, sector %u, fixed %d, parents %s\n",
                image->capacity, image->blockSize, image->sectorSize,
                image->fixed, NULLSTR(parents));
        return -1;
    }
    return 0;
}


static int
testReadFails(const void *opaque G_GNUC_UNUSED)
{
    Image file = { .fails = true };
    g_autoptr(virStorageFileVHDX) image = NULL;

    if (virStorageFileVHDXOpen("test.vhdx", readImage, &file, &image) == 0 ||
        !strstr(virGetLastErrorMessage(), "cannot read at offset 0"))
        return -1;
    return 0;
}


#define GOOD .capacity = GIB, .blockSize = 8 * MIB, .sectorSize = 512

static const Case cases[] = {
    { "plain", GOOD },
    { "from the second copies", .second = true, GOOD },
    { "size 0", { { 8, DISK_SIZE, 0 } },
      .capacity = 0, .blockSize = 8 * MIB, .sectorSize = 512 },
    { "64 TiB", { { 8, DISK_SIZE, 65536 * GIB } },
      .capacity = 65536 * GIB, .blockSize = 8 * MIB, .sectorSize = 512 },
    { "fixed", { { 4, PARAMETERS + 4, 1 } }, GOOD, .fixed = true },
    { "4 KiB sectors", { { 4, SECTOR, 4096 }, { 4, PARAMETERS, 256 * MIB } },
      .capacity = GIB, .blockSize = 256 * MIB, .sectorSize = 4096 },
    { "LogGuid set", { { 8, HEADER2 + 48, 1 } }, GOOD },
    { "the older header is another version", { { 2, HEADER1 + 66, 7 } }, GOOD },
    { "unknown region, not required",
      { { 4, REGIONS1 + 8, 3 }, { 8, REGION(2), 1234 } }, GOOD },
    { "unknown item, not required",
      { { 2, METADATA + 10, 6 }, { 8, ITEM(5), 1234 } }, GOOD },

    /* Damage */
    { "no identifier", { { 1, 0, 'V' } }, .error = "the file identifier is gone" },
    { "empty file", .length = 4, .error = "the file has only 4 of 8 bytes at offset 0" },
    { "short of the headers", .length = 100 * KIB,
      .error = "the file has only 0 of 4096 bytes at offset 131072" },
    { "short of the metadata", .length = METADATA,
      .error = "the file has only 0 of 65536 bytes at offset 2097152" },
    { "short of the items", .length = SECTOR + 3,
      .error = "the file has only 3 of 4 bytes at offset 2162720" },
    { "no checksums", .broken = true,
      .error = "neither header has a valid signature and checksum" },
    { "header signature", { { 1, HEADER1, 'x' }, { 1, HEADER2, 'x' } },
      .error = "neither header has a valid signature and checksum" },
    { "version", { { 2, HEADER2 + 66, 2 } }, .error = "the header has Version 2" },
    { "equal sequence numbers", { { 8, HEADER1 + 8, 9 }, { 8, HEADER2 + 8, 9 }, { 1, HEADER1 + 16, 1 } },
      .error = "two different headers have SequenceNumber 9" },
    { "region table signatures", { { 1, REGIONS1, 'x' }, { 1, REGIONS2, 'x' } },
      .error = "neither region table has a valid signature and checksum" },
    { "region count", { { 4, REGIONS1 + 8, 2048 } },
      .error = "the region table has EntryCount 2048" },
    { "region count, huge", { { 4, REGIONS1 + 8, 0xffffffff } },
      .error = "the region table has EntryCount 4294967295" },
    { "no metadata region", { { 4, REGIONS1 + 8, 1 } },
      .error = "the region table has no metadata region" },
    { "metadata region twice",
      { { 4, REGIONS1 + 8, 2 }, { 8, REGION(0), 0x4b9a47908b7ca206 },
        { 8, REGION(0) + 8, 0x6e880f055f57feb8 } },
      .error = "the region table lists the metadata region twice" },
    { "metadata region at 0", { { 8, REGION(1) + 16, 0 } },
      .error = "the metadata region has FileOffset 0 and Length 1048576" },
    { "metadata region between", { { 8, REGION(1) + 16, METADATA + 512 } },
      .error = "the metadata region has FileOffset 2097664" },
    { "metadata region too far", { { 8, REGION(1) + 16, 0xfffffffffff00000 } },
      .error = "the metadata region has FileOffset 18446744073708503040" },
    { "metadata region empty", { { 4, REGION(1) + 24, 0 } },
      .error = "and Length 0" },
    { "metadata region length", { { 4, REGION(1) + 24, 1234 } },
      .error = "and Length 1234" },
    { "required region",
      { { 4, REGIONS1 + 8, 3 }, { 4, REGION(2), 0x12345678 }, { 4, REGION(2) + 28, 1 } },
      .error = "unknown region 12345678-0000-0000-0000-000000000000 is required" },
    { "metadata signature", { { 1, METADATA, 'x' } },
      .error = "the metadata table has no valid signature" },
    { "item count", { { 2, METADATA + 10, 2048 } },
      .error = "the metadata table has EntryCount 2048" },
    { "item in the table", { { 4, ITEM(ITEM_SIZE) + 16, 100 } },
      .error = "metadata item 2fa54224-cd1b-4876-b211-5dbed83bf4b8 has Offset 100 and Length 8" },
    { "item behind the region", { { 4, ITEM(ITEM_SIZE) + 16, MIB - 4 } },
      .error = "has Offset 1048572 and Length 8" },
    { "item far behind the region", { { 4, ITEM(ITEM_SIZE) + 16, 0xffffffff } },
      .error = "has Offset 4294967295 and Length 8" },
    { "item too long", { { 4, ITEM(2) + 20, MIB + 1 } }, .error = "and Length 1048577" },
    { "item of a wrong length", { { 4, ITEM(ITEM_SECTOR) + 20, 8 } },
      .error = "the metadata item 'Logical Sector Size' has Length 8" },
    { "item twice",
      { { 8, ITEM(2), 0x4876cd1b2fa54224 }, { 8, ITEM(2) + 8, 0xb8f43bd8be5d11b2 },
        { 4, ITEM(2) + 20, 8 } },
      .error = "there are two metadata items 'Virtual Disk Size'" },
    { "no size", { { 4, ITEM(ITEM_SIZE) + 24, 7 } }, .error = "is required" },
    { "no sector size", { { 8, ITEM(ITEM_SECTOR), 77 }, { 4, ITEM(ITEM_SECTOR) + 24, 0 } },
      .error = "there is no metadata item 'Logical Sector Size'" },
    { "required item", { { 2, METADATA + 10, 6 }, { 4, ITEM(5), 0x12345678 }, { 4, ITEM(5) + 24, 4 } },
      .error = "unknown metadata item 12345678-0000-0000-0000-000000000000 is required" },
    { "unfinished",
      { { 2, METADATA + 10, 6 }, { 8, ITEM(5), 0x4e281b6971cc85f0 },
        { 8, ITEM(5) + 8, 0xd375ae83bfc35895 } },
      .error = "the image was not created completely" },
    { "block size 0", { { 4, PARAMETERS, 0 } }, .error = "BlockSize is 0" },
    { "block size 3 MiB", { { 4, PARAMETERS, 3 * MIB } }, .error = "BlockSize is 3145728" },
    { "block size 512 KiB", { { 4, PARAMETERS, 512 * KIB } }, .error = "BlockSize is 524288" },
    { "block size 512 MiB", { { 4, PARAMETERS, 512 * MIB } }, .error = "BlockSize is 536870912" },
    { "sector size", { { 4, SECTOR, 1024 } }, .error = "LogicalSectorSize is 1024" },
    { "too large", { { 8, DISK_SIZE, 65536 * GIB + 512 } },
      .error = "VirtualDiskSize is 70368744178176" },
    { "part of a sector", { { 8, DISK_SIZE, GIB + 1 } }, .error = "VirtualDiskSize is 1073741825" },

    /* Parents */
    { "as Windows writes it", GOOD,
      .relative = ".\\base.vhdx",
      .volume = "\\\\?\\Volume{5e0b1f6e-0000-0000-0000-100000000000}\\vm\\base.vhdx",
      .absolute = "C:\\vm\\base.vhdx",
      .parents = "base.vhdx" },
    { "in another folder", GOOD, .relative = "..\\base\\base.vhdx",
      .parents = "../base/base.vhdx|base.vhdx" },
    { "an absolute path of ours", GOOD, .absolute = "\\srv\\vm\\base.vhdx",
      .parents = "/srv/vm/base.vhdx|base.vhdx" },
    { "absolute only, of Windows", GOOD, .absolute = "\\\\?\\C:\\vm\\base.vhdx",
      .parents = "base.vhdx" },
    { "names differ", GOOD, .relative = "a\\one.vhdx", .absolute = "D:\\two.vhdx",
      .parents = "a/one.vhdx|one.vhdx|two.vhdx" },
    { "a relative path that is none", GOOD, .relative = "\\etc\\base.vhdx",
      .parents = "base.vhdx" },
    { "a relative path with a drive", GOOD, .relative = "C:base.vhdx",
      .parents = "./C:base.vhdx" },
    { "a relative path that hides a root", GOOD, .relative = ".\\\\etc\\x.vhdx",
      .parents = "etc/x.vhdx|x.vhdx" },
    { "no protocol", GOOD, .relative = "nbd:base.vhdx", .parents = "./nbd:base.vhdx" },
    { "no device", GOOD, .absolute = "\\dev\\..\\\\dev\\sda", .parents = "sda" },
    { "a share", GOOD, .absolute = "\\\\server\\share\\base.vhdx", .parents = "base.vhdx" },
    { "fixed means nothing in a child", { { 4, PARAMETERS + 4, 3 } }, GOOD,
      .relative = "b.vhdx", .parents = "b.vhdx" },
    { "no locator", { { 4, PARAMETERS + 4, 2 } },
      .error = "there is no metadata item 'Parent Locator'" },
    { "locator without parent", { { 4, PARAMETERS + 4, 0 } }, GOOD, .relative = "b.vhdx" },
    { "locator type", { { 1, LOCATOR, 0 } }, .relative = "b.vhdx",
      .error = "the Parent Locator has LocatorType b04aef00-d19e-4a81-b789-25b8e9445913" },
    { "locator too short", { { 4, ITEM(ITEM_LOCATOR) + 20, 19 } }, .relative = "b.vhdx",
      .error = "the Parent Locator has Length 19" },
    { "locator count", { { 2, LOCATOR + 18, 340 } }, .relative = "b.vhdx",
      .error = "the Parent Locator has KeyValueCount 340" },
    { "key at 0", { { 4, LOCATOR + 20, 0 } }, .relative = "b.vhdx",
      .error = "a key at offset 0 with length 28" },
    { "key outside", { { 4, LOCATOR + 20, LOCATOR_LEN - 2 } }, .relative = "b.vhdx",
      .error = "a key at offset 4094 with length 28" },
    { "value of odd length", { { 2, LOCATOR + 30, 77 } }, .relative = "b.vhdx",
      .error = "with length 77" },
    { "value far outside", { { 4, LOCATOR + 24, 0xfffffffe } }, .relative = "b.vhdx",
      .error = "a value at offset 4294967294" },
    { "key twice", { { 4, LOCATOR + 32, 512 + 28 + 76 }, { 4, LOCATOR + 20, 512 + 28 + 76 },
                     { 2, LOCATOR + 28, 26 } },
      .relative = "b.vhdx", .error = "the Parent Locator has two keys 'relative_path'" },
    { "no path", { { 2, LOCATOR + 18, 1 } }, .relative = "b.vhdx",
      .error = "the Parent Locator has no path" },
    { "only a folder", .relative = "..", .error = "the Parent Locator has no path" },
    { "an unpaired surrogate", { { 2, LOCATOR + 512 + 28 + 76 + 26, 0xd800 } }, .relative = "b.vhdx",
      .error = "the Parent Locator's 'relative_path' is not valid UTF-16 text" },
    { "a line feed", .relative = "b\n.vhdx",
      .error = "the Parent Locator's 'relative_path' is not valid UTF-16 text" },
    { "a NUL", { { 2, LOCATOR + 512 + 28 + 76 + 26, 0 } }, .relative = "b.vhdx",
      .error = "the Parent Locator's 'relative_path' is not valid UTF-16 text" },
};


static int
mymain(void)
{
    int ret = 0;
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(cases); i++) {
        if (virTestRun(cases[i].name, testCase, &cases[i]) < 0)
            ret = -1;
    }
    if (virTestRun("a read that fails", testReadFails, NULL) < 0)
        ret = -1;

    return ret == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

VIR_TEST_MAIN(mymain)
