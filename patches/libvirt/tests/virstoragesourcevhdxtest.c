/*
 * virstoragesourcevhdxtest.c: test of VHDX images as storage sources
 *
 * Chains and volumes of images that the test writes itself.
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

#include <fcntl.h>
#include <unistd.h>

#include "storage/storage_driver.h"
#include "storage/storage_util.h"
#include "storage_source.h"
#include "testutils.h"
#include "virfile.h"
#include "virstoragefilevhdxdata.h"

#define VIR_FROM_THIS VIR_FROM_NONE

#define datadir abs_builddir "/virstoragesourcevhdxdata"

#define KIB 1024ULL
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

#define HEADER (64 * KIB)
#define HEADER2 (128 * KIB)
#define REGIONS (192 * KIB)
#define METADATA MIB
#define ITEMS (METADATA + 64 * KIB)
#define LOCATOR (ITEMS + 4 * KIB)
#define FILE_LEN (2 * MIB)

typedef struct {
    const char *name;
    unsigned long long capacity;
    bool fixed;
    unsigned int sectorSize;        /* 512 if it is 0 */
    const char *relative;           /* paths of the parent */
    const char *absolute;
    /* What is overwritten with zeros */
    unsigned long long hole;
    size_t holeLen;
} Image;

static const Image images[] = {
    { .name = "plain.vhdx", .capacity = GIB },
    { .name = "empty.vhdx", .capacity = 0 },
    { .name = "fixed.vhdx", .capacity = 64 * MIB, .fixed = true, .sectorSize = 4096 },
    { .name = "child.vhdx", .capacity = 2 * GIB, .relative = ".\\plain.vhdx",
      .absolute = "C:\\nowhere\\plain.vhdx" },
    { .name = "sub/grandchild.vhdx", .capacity = 3 * GIB, .relative = "..\\child.vhdx" },
    { .name = "absolute.vhdx", .capacity = GIB, .relative = "nowhere\\plain.vhdx",
      .absolute = datadir "/sub/grandchild.vhdx" },
    { .name = "moved.vhdx", .capacity = GIB, .relative = "..\\nowhere\\plain.vhdx" },
    { .name = "drive.vhdx", .capacity = GIB, .absolute = "D:\\vm\\plain.vhdx" },
    { .name = "missing.vhdx", .capacity = GIB, .relative = "..\\nowhere\\gone.vhdx",
      .absolute = "E:\\gone.vhdx" },
    { .name = "self.vhdx", .capacity = GIB, .relative = "self.vhdx" },
    { .name = "damaged.vhdx", .capacity = GIB, .hole = METADATA, .holeLen = 8 },
    { .name = "over-damaged.vhdx", .capacity = GIB, .relative = "damaged.vhdx" },
    { .name = "no-identifier.vhdx", .capacity = GIB, .holeLen = 512 },
    { .name = "second-header.vhdx", .capacity = GIB, .holeLen = HEADER + 4 },
    { .name = "no-header.vhdx", .capacity = GIB, .holeLen = HEADER2 + 4 },
    { .name = "own-name.vhdx", .capacity = GIB, .relative = "..\\nowhere\\own-name.vhdx" },
};


static void
putItem(unsigned char *bytes,
        unsigned long long guidHead,
        unsigned long long guidTail,
        unsigned long long at,
        unsigned int length)
{
    unsigned char *table = bytes + METADATA;
    unsigned char *entry = table + 32 + 32 * table[10];

    put(entry, 8, guidHead);
    put(entry + 8, 8, guidTail);
    put(entry + 16, 4, at - METADATA);
    put(entry + 20, 4, length);
    put(entry + 24, 4, 4);
    table[10]++;
}


static void
putPath(unsigned char *bytes,
        const char *key,
        const char *value)
{
    unsigned char *locator = bytes + LOCATOR;
    unsigned char *entry = locator + 20 + 12 * locator[18];
    unsigned int at = KIB * ++locator[18];
    size_t i;

    put(entry, 4, at);
    put(entry + 4, 4, at + 64);
    put(entry + 8, 2, 2 * strlen(key));
    put(entry + 10, 2, 2 * strlen(value));
    for (i = 0; key[i]; i++)
        locator[at + 2 * i] = key[i];
    for (i = 0; value[i]; i++)
        locator[at + 64 + 2 * i] = value[i];
}


static int
writeFile(const char *name,
          const unsigned char *bytes,
          size_t length)
{
    g_autofree char *path = g_strdup_printf("%s/%s", datadir, name);

    if (!g_file_set_contents(path, (const char *) bytes, length, NULL)) {
        fprintf(stderr, "cannot write %s\n", path);
        return -1;
    }
    return 0;
}


static int
writeImage(const Image *image)
{
    g_autofree unsigned char *bytes = g_new0(unsigned char, FILE_LEN);
    bool child = image->relative || image->absolute;

    memcpy(bytes, "vhdxfile", 8);

    memcpy(bytes + HEADER, "head", 4);
    put(bytes + HEADER + 66, 2, 1);
    seal(bytes + HEADER, 4 * KIB);
    memcpy(bytes + HEADER2, bytes + HEADER, 4 * KIB);

    memcpy(bytes + REGIONS, "regi", 4);
    put(bytes + REGIONS + 8, 4, 1);
    put(bytes + REGIONS + 16, 8, 0x4b9a47908b7ca206);
    put(bytes + REGIONS + 24, 8, 0x6e880f055f57feb8);
    put(bytes + REGIONS + 32, 8, METADATA);
    put(bytes + REGIONS + 40, 4, MIB);
    put(bytes + REGIONS + 44, 4, 1);
    seal(bytes + REGIONS, 64 * KIB);

    memcpy(bytes + METADATA, "metadata", 8);
    putItem(bytes, 0x4d43fa36caa16737, 0x6be744aaf033b6b3, ITEMS, 8);
    put(bytes + ITEMS, 4, 32 * MIB);
    put(bytes + ITEMS + 4, 4, child ? 2 : image->fixed);
    putItem(bytes, 0x4876cd1b2fa54224, 0xb8f43bd8be5d11b2, ITEMS + 8, 8);
    put(bytes + ITEMS + 8, 8, image->capacity);
    putItem(bytes, 0x4709a96f8141bf1d, 0x5fabfaa833f247ba, ITEMS + 16, 4);
    put(bytes + ITEMS + 16, 4, image->sectorSize ? image->sectorSize : 512);

    if (child) {
        putItem(bytes, 0x454db30ba8d35f2d, 0x0cab3448d8d3f7ab, LOCATOR, 16 * KIB);
        put(bytes + LOCATOR, 8, 0x4a81d19eb04aefb7);
        put(bytes + LOCATOR + 8, 8, 0x135944e9b82589b7);
        if (image->relative)
            putPath(bytes, "relative_path", image->relative);
        if (image->absolute)
            putPath(bytes, "absolute_win32_path", image->absolute);
    }

    memset(bytes + image->hole, 0, image->holeLen);

    return writeFile(image->name, bytes, FILE_LEN);
}


/* The header of a qcow2 image of 4 GiB, which names the format of its backing
 * file if @format is not NULL */
static int
writeQcow2(const char *name,
           const char *backing,
           const char *format)
{
    unsigned char bytes[1024] = {
        'Q', 'F', 'I', 0xfb, 0, 0, 0, 2,
        0, 0, 0, 0, 0, 0, 2, 0,
        0, 0, 0, strlen(backing), 0, 0, 0, 16,
        0, 0, 0, 1, 0, 0, 0, 0,
    };

    if (format) {
        memcpy(bytes + 72, "\xe2\x79\x2a\xca", 4);
        bytes[79] = strlen(format);
        memcpy(bytes + 80, format, strlen(format));
    }
    memcpy(bytes + 512, backing, strlen(backing));

    return writeFile(name, bytes, sizeof(bytes));
}


static virStorageSource *
newSource(const char *name,
          virStorageFileFormat format)
{
    virStorageSource *src = virStorageSourceNew();

    src->type = VIR_STORAGE_TYPE_FILE;
    src->format = format;
    src->path = g_strdup_printf("%s/%s", datadir, name);
    return src;
}


static int
expectError(const char *expected)
{
    if (strstr(virGetLastErrorMessage(), expected)) {
        virResetLastError();
        return 0;
    }

    fprintf(stderr, "fails with: %s\nnot: %s\n", virGetLastErrorMessage(), expected);
    return -1;
}


/* Either an error, or for each image of the chain its path below the folder,
 * format, capacity in MiB, and the name that it was found by */
typedef struct {
    const char *start;
    const char *chain;
    const char *error;
} Chain;

static const Chain chains[] = {
    { .start = "plain.vhdx", .chain = "plain.vhdx vhdx 1024" },
    { .start = "empty.vhdx", .chain = "empty.vhdx vhdx 0" },
    { .start = "child.vhdx", .chain = "child.vhdx vhdx 2048 < plain.vhdx vhdx 1024 plain.vhdx" },
    { .start = "sub/grandchild.vhdx",
      .chain = "sub/grandchild.vhdx vhdx 3072 < sub/../child.vhdx vhdx 2048 ../child.vhdx"
      " < sub/../plain.vhdx vhdx 1024 plain.vhdx" },
    { .start = "absolute.vhdx",
      .chain = "absolute.vhdx vhdx 1024 < sub/grandchild.vhdx vhdx 3072"
      " < sub/../child.vhdx vhdx 2048 ../child.vhdx"
      " < sub/../plain.vhdx vhdx 1024 plain.vhdx" },
    { .start = "moved.vhdx", .chain = "moved.vhdx vhdx 1024 < plain.vhdx vhdx 1024 plain.vhdx" },
    { .start = "drive.vhdx", .chain = "drive.vhdx vhdx 1024 < plain.vhdx vhdx 1024 plain.vhdx" },
    { .start = "missing.vhdx", .error = "/../nowhere/gone.vhdx" },
    { .start = "self.vhdx", .error = "self-referential" },
    /* A guess never is the image itself. */
    { .start = "own-name.vhdx", .error = "/../nowhere/own-name.vhdx" },
    { .start = "damaged.vhdx", .error = "damaged VHDX image '" datadir "/damaged.vhdx'" },
    { .start = "over-damaged.vhdx", .error = "damaged VHDX image '" datadir "/damaged.vhdx'" },
    { .start = "no-identifier.vhdx", .error = "the file identifier is gone" },
    { .start = "over-plain.qcow2",
      .chain = "over-plain.qcow2 qcow2 4096 < plain.vhdx vhdx 1024 plain.vhdx" },
    { .start = "over-child.qcow2",
      .chain = "over-child.qcow2 qcow2 4096 < child.vhdx vhdx 2048 child.vhdx"
      " < plain.vhdx vhdx 1024 plain.vhdx" },
    { .start = "over-damaged.qcow2", .error = "damaged VHDX image '" datadir "/damaged.vhdx'" },
    /* A chain that was probed is not followed. */
    { .start = "probed.qcow2", .error = "format of backing image 'child.vhdx'" },
};


static int
testChain(const void *opaque)
{
    const Chain *chain = opaque;
    g_autoptr(virStorageSource) src = NULL;
    g_auto(virBuffer) buf = VIR_BUFFER_INITIALIZER;
    virStorageSource *elt;

    src = newSource(chain->start, strstr(chain->start, "qcow2") ?
                    VIR_STORAGE_FILE_QCOW2 : VIR_STORAGE_FILE_VHDX);

    if (virStorageSourceGetMetadata(src, -1, -1, 20, true) < 0)
        return expectError(chain->error ? chain->error : chain->chain);

    for (elt = src; virStorageSourceIsBacking(elt); elt = elt->backingStore) {
        virBufferAsprintf(&buf, "%s%s %s %llu%s%s",
                          elt == src ? "" : " < ",
                          elt->path + strlen(datadir) + 1,
                          virStorageFileFormatTypeToString(elt->format),
                          elt->capacity / MIB,
                          elt->relPath ? " " : "",
                          elt->relPath ? elt->relPath : "");
    }

    return virTestCompareToString(chain->chain ? chain->chain : chain->error,
                                  virBufferCurrentContent(&buf));
}


/* What the refresh of a pool finds, and what a later look says */
typedef struct {
    const char *name;
    bool raw;
    unsigned long long capacity;
    unsigned int sectorSize;        /* 512 if it is 0 */
    bool fixed;
    const char *parent;
    const char *error;
} Volume;

static const Volume volumes[] = {
    { .name = "plain.vhdx", .capacity = GIB },
    { .name = "empty.vhdx", .capacity = 0 },
    { .name = "fixed.vhdx", .capacity = 64 * MIB, .sectorSize = 4096, .fixed = true },
    { .name = "child.vhdx", .capacity = 2 * GIB, .parent = datadir "/plain.vhdx" },
    { .name = "missing.vhdx", .capacity = GIB,
      .parent = datadir "/../nowhere/gone.vhdx" },
    { .name = "over-damaged.vhdx", .capacity = GIB, .parent = datadir "/damaged.vhdx" },
    { .name = "damaged.vhdx",
      .error = "damaged VHDX image '" datadir "/damaged.vhdx': the metadata table" },
    { .name = "no-identifier.vhdx", .error = "the file identifier is gone" },
    { .name = "second-header.vhdx", .error = "the file identifier is gone" },
    { .name = "no-header.vhdx", .raw = true, .capacity = FILE_LEN },
    { .name = "raw", .raw = true, .capacity = 3 },
};


static int
checkVolume(const Volume *volume,
            virStorageSource *src)
{
    bool read = !volume->raw && !volume->error;

    if (src->format == (volume->raw ? VIR_STORAGE_FILE_RAW : VIR_STORAGE_FILE_VHDX) &&
        src->capacity == volume->capacity &&
        src->clusterSize == (read ? 32 * MIB : 0) &&
        src->logicalSectorSize == (read ? volume->sectorSize ? volume->sectorSize : 512 : 0) &&
        src->fixed == volume->fixed)
        return 0;

    fprintf(stderr, "format %s, capacity %llu, block %llu, sector %u, fixed %d\n",
            virStorageFileFormatTypeToString(src->format), src->capacity,
            src->clusterSize, src->logicalSectorSize, src->fixed);
    return -1;
}


static int
testScan(const void *opaque)
{
    const Volume *volume = opaque;
    g_autoptr(virStorageVolDef) vol = g_new0(virStorageVolDef, 1);

    vol->type = VIR_STORAGE_VOL_FILE;
    vol->target.path = g_strdup_printf("%s/%s", datadir, volume->name);

    if (virStorageBackendRefreshVolTargetUpdate(vol) < 0)
        return -1;

    if (checkVolume(volume, &vol->target) < 0)
        return -1;

    if (volume->error && virGetLastErrorCode()) {
        fprintf(stderr, "an error is left: %s\n", virGetLastErrorMessage());
        return -1;
    }

    if (virTestCompareToString(NULLSTR(volume->parent),
                               NULLSTR(vol->target.backingStore ?
                                       vol->target.backingStore->path : NULL)) < 0)
        return -1;

    /* What is wrong with the parent does not count. */
    if (virStorageBackendUpdateVolInfo(vol, false, VIR_STORAGE_VOL_OPEN_DEFAULT, 0) < 0)
        return expectError(volume->error ? volume->error : "no error");

    return volume->error ? -1 : checkVolume(volume, &vol->target);
}


static int
testCapacity(const Volume *volume,
             virStorageSource *src,
             int fd)
{
    char buf[512] = "";

    src->physical = FILE_LEN;
    src->capacity = FILE_LEN;

    if (virStorageSourceUpdateCapacity(src, fd, buf, sizeof(buf)) < 0)
        return volume->error && src->capacity == 0 ? expectError(volume->error) : -1;

    return volume->error ? -1 : checkVolume(volume, src);
}


static int
testCapacityFD(const void *opaque)
{
    const Volume *volume = opaque;
    g_autoptr(virStorageSource) src = newSource(volume->name, VIR_STORAGE_FILE_VHDX);
    VIR_AUTOCLOSE fd = open(src->path, O_RDONLY);

    return testCapacity(volume, src, fd);
}


static int
testCapacitySource(const void *opaque)
{
    const Volume *volume = opaque;
    g_autoptr(virStorageSource) src = newSource(volume->name, VIR_STORAGE_FILE_VHDX);
    int rc;

    if (virStorageSourceInit(src) < 0)
        return -1;

    rc = testCapacity(volume, src, -1);
    virStorageSourceDeinit(src);
    return rc;
}


static int
testRelative(const void *opaque)
{
    const Image *image = opaque;
    g_autoptr(virStorageSource) src = newSource(image->name, VIR_STORAGE_FILE_VHDX);
    g_autofree char *path = NULL;
    int rc;

    if (virStorageSourceInit(src) < 0)
        return -1;

    rc = virStorageSourceFetchRelativeBackingPath(src, &path);
    virStorageSourceDeinit(src);
    if (rc < 0)
        return -1;

    return virTestCompareToString(NULLSTR(image->relative), NULLSTR(path));
}


static int
mymain(void)
{
    static const Image relative[] = {
        { .name = "child.vhdx", .relative = "plain.vhdx" },
        { .name = "sub/grandchild.vhdx", .relative = "../child.vhdx" },
        { .name = "absolute.vhdx" },
    };
    int ret = 0;
    size_t i;

    if (storageRegisterAll() < 0)
        return EXIT_FAILURE;

    virFileDeleteTree(datadir);
    if (g_mkdir_with_parents(datadir "/sub", 0777) < 0)
        return EXIT_FAILURE;

    for (i = 0; i < G_N_ELEMENTS(images); i++) {
        if (writeImage(&images[i]) < 0)
            return EXIT_FAILURE;
    }
    if (writeQcow2("over-plain.qcow2", "plain.vhdx", "vhdx") < 0 ||
        writeQcow2("over-child.qcow2", "child.vhdx", "vhdx") < 0 ||
        writeQcow2("over-damaged.qcow2", "damaged.vhdx", "vhdx") < 0 ||
        writeQcow2("probed.qcow2", "child.vhdx", NULL) < 0 ||
        writeFile("raw", (const unsigned char *) "raw", 3) < 0)
        return EXIT_FAILURE;

#define DO_TESTS(what, function, cases) \
    for (i = 0; i < G_N_ELEMENTS(cases); i++) { \
        g_autofree char *name = g_strdup_printf("%s %s", what, *(const char **) &cases[i]); \
        if (virTestRun(name, function, &cases[i]) < 0) \
            ret = -1; \
    }

    DO_TESTS("chain", testChain, chains);
    DO_TESTS("scan", testScan, volumes);
    DO_TESTS("relative path", testRelative, relative);

    /* A raw image has the size that was measured before. */
    for (i = 0; i < G_N_ELEMENTS(volumes); i++) {
        if (volumes[i].raw)
            continue;
        if (virTestRun(volumes[i].name, testCapacityFD, &volumes[i]) < 0 ||
            virTestRun(volumes[i].name, testCapacitySource, &volumes[i]) < 0)
            ret = -1;
    }

    virFileDeleteTree(datadir);
    return ret == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

VIR_TEST_MAIN(mymain)
