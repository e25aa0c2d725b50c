/*
 * VHDX fuzz target: what is done with an image, and what must hold
 *
 *   - an open, information, status, reads and a check without repair change
 *     nothing in the file, whether the image is refused or not
 *   - it opens read-only if it opens read-write, and reads the same; the
 *     reverse holds but for images that the driver says cannot be changed
 *   - what is read twice is the same both times
 *   - after a repair the image opens, its check finds no more than before, and
 *     what could be read before reads as it did
 *   - after writes, zeroes and discards, and a power cut after their flush or a
 *     clean close, the image opens and, if it was sound, reads as written; if a
 *     repair finds nothing to mend in it before, check finds nothing after.  An
 *     entry that means nothing may get a meaning when something else is placed
 *     where it points, or goes from there.
 *   - the driver takes no more memory than it may, and ends each of this within
 *     a number of file operations that the file's content justifies
 *
 * A differencing image is looked at without a parent, and if it opens then, all
 * of this is done once more over one, which is shorter than most disks.
 *
 * That nothing else goes wrong is for the sanitizers to see, and for libFuzzer
 * that it ends at all.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-block-core.h"
#include "qemu/option.h"
#include "block/block_int.h"
#include "block/vhdx/crc.h"
#include "block/vhdx/state.h"
#include "vhdx-fuzz.h"
#include "vhdx-test-request.h"

/* Places to read at, and the most to read there */
#define SAMPLES         24
#define SAMPLE_BYTES    (96 * KiB)

#define STATUS_STEPS    64
#define MAX_WRITES      10

/*
 * File operations for which no content is needed: the largest BAT has 513 MiB
 * and is read in pieces of 1 MiB.  To read a log of 4 GiB with nothing in it
 * would take more.
 */
#define FREE_OPS        3000

/* How long the parent is, and what it is full of */
#define PARENT_SIZE     (7 * MiB - 512)
#define PARENT_FILL     0x37

typedef struct Sample {
    int64_t offset;                 /* bytes */
    int64_t bytes;
    int ret;
    uint32_t crc;
} Sample;

/* What an open of the image has shown. */
typedef struct View {
    bool opens;
    bool dirty;                     /* the log has changes */
    bool child;                     /* there can be a parent */
    bool checked;                   /* check came to its end */
    int corruptions;
    int mended;                     /* ... and what no error is, by repair */
    unsigned count;
    Sample samples[SAMPLES];
} View;

typedef struct Fuzz {
    const char *doing;              /* for messages */
    char refused[256];              /* why the image did not open at last */
    CrashDisk *disk;
    bool parent;                    /* one is attached */
    uint64_t seed;
    uint32_t ops_end;               /* number of operations that is too many */
} Fuzz;

/* -- The node and the image on it -- */

/* The operations so far; each takes two stamps. */
static uint32_t ops_done(Fuzz *f)
{
    return f->disk->now / 2;
}

/* @page_ops operations are all right for each page that the file holds. */
static void step_limit(Fuzz *f, const char *doing, unsigned page_ops)
{
    CrashImage *img = f->disk->view;

    f->doing = doing;
    f->ops_end = ops_done(f) + FREE_OPS +
                 page_ops * img->count;
    memory_watch(img);
}

/* Each descriptor in the log may be an operation when it is replayed. */
static void step_begin(Fuzz *f, const char *doing)
{
    step_limit(f, doing, 2 * CRASH_PAGE / 32);
}

static void step_end(Fuzz *f)
{
    memory_unwatch();
    if (ops_done(f) > f->ops_end) {
        fuzz_fail("%s took too many file operations", f->doing);
    }
}

static void expect_unchanged(Fuzz *f)
{
    if (f->disk->changes) {
        fuzz_fail("%s has changed the file", f->doing);
    }
}

static CrashPage *fuzz_parent_page(uint64_t size, uint64_t page)
{
    static CrashPage filled;

    memset(filled.data, PARENT_FILL, sizeof(filled.data));
    return &filled;
}

/* Serve @img, which stays the caller's, until disk_take() is called. */
static void disk_give(Fuzz *f, CrashImage *img)
{
    static const CrashNode file;

    f->disk = disk_new(img, &file, 0);
    f->disk->instant = true;
    if (f->parent) {
        disk_add_parent(f->disk, PARENT_SIZE, fuzz_parent_page);
    }
}

static void disk_take(Fuzz *f)
{
    /* Closing the node flushes it once more. */
    f->disk->view = image_new(0, false);
    disk_free(f->disk);
}

static BlockBackend *image_open(Fuzz *f, int flags, const char *doing)
{
    QDict *options = qdict_new();
    g_autofree char *cache_size = g_strdup_printf("%lld",
                                                  (long long)FUZZ_CACHE);
    BlockBackend *blk;
    Error *err = NULL;

    qdict_put_str(options, "driver", "vhdx");
    qdict_put_str(options, "file", "disk");
    qdict_put_str(options, "cache-size", cache_size);
    /* An input is one file: it names no other one of this machine. */
    if (f->parent) {
        qdict_put_str(options, "backing", "parent");
    } else {
        qdict_put_null(options, "backing");
    }
    step_limit(f, doing, 8);
    blk = blk_new_open(NULL, NULL, options, flags, &err);
    step_end(f);
    if (!blk) {
        pstrcpy(f->refused, sizeof(f->refused), error_get_pretty(err));
        error_free(err);
    }
    return blk;
}

static void image_close(Fuzz *f, BlockBackend *blk, const char *doing)
{
    step_begin(f, doing);
    blk_unref(blk);
    step_end(f);
}

/* -- Looking at it -- */

static void look_info(Fuzz *f, BlockBackend *blk, View *view)
{
    BlockDriverInfo bdi = { 0 };
    ImageInfoSpecific *info;

    GRAPH_RDLOCK_GUARD_MAINLOOP();
    step_begin(f, "asking for information");
    info = bdrv_get_specific_info(blk_bs(blk), &error_abort);
    if (bdrv_get_info(blk_bs(blk), &bdi) < 0 ||
        bdi.cluster_size != 0 ||
        bdi.is_dirty != info->u.vhdx.data->log_dirty) {
        fuzz_fail("bdrv_get_info() does not say what the image is");
    }
    view->dirty = bdi.is_dirty;
    (void)bdrv_has_zero_init(blk_bs(blk));
    qapi_free_ImageInfoSpecific(info);
    step_end(f);
}

static void look_status(Fuzz *f, BlockBackend *blk)
{
    int64_t end = blk_getlength(blk), offset = 0;

    GRAPH_RDLOCK_GUARD_MAINLOOP();
    step_begin(f, "block status");
    for (int i = 0; i < STATUS_STEPS && offset < end; i++) {
        int64_t pnum = 0, map;
        BlockDriverState *file;
        int ret = bdrv_block_status(blk_bs(blk), offset, end - offset, &pnum,
                                    &map, &file);

        if (ret < 0) {
            /* A bad entry: go on behind it. */
            offset += MiB;
            continue;
        }
        if (pnum <= 0 || pnum > end - offset) {
            fuzz_fail("block status of %" PRId64 " bytes at %" PRId64
                      " is for %" PRId64, end - offset, offset, pnum);
        }
        offset += pnum;
        if (i == STATUS_STEPS / 2) {
            /* The end is worth a look, too. */
            offset = MAX(offset, QEMU_ALIGN_DOWN(end - end / 1024, 4096));
        }
    }
    step_end(f);
}

static void sample_read(BlockBackend *blk, Sample *s)
{
    static uint8_t buf[SAMPLE_BYTES];

    memset(buf, 0x5a, s->bytes);
    s->ret = MIN(blk_pread(blk, s->offset, s->bytes, buf, 0), 0);
    s->crc = s->ret ? 0 : vhdx_crc_continue(UINT32_MAX, buf, s->bytes);
}

/* Choose where to read a disk of @end bytes. */
static unsigned samples_choose(Sample *samples, int64_t end, uint64_t seed)
{
    CrashRng rng = { seed };
    unsigned n = 0;

    while (n < SAMPLES && end) {
        int64_t at = rng_below(&rng, end);

        if (n < 8) {
            /* The first MiBs, across the ends of blocks */
            at = MIN(at, (int64_t)n * MiB);
            at -= MIN(at, 4096);
        } else if (n < 10) {
            at = end - 1 - MIN(end - 1, at % (int64_t)SAMPLE_BYTES);
        } else if (n < 18) {
            at %= 64 * MiB;
        }
        samples[n] = (Sample) {
            .offset = at,
            .bytes = MIN(end - at, rng_below(&rng, n % 4 ? 9000 :
                                             SAMPLE_BYTES) + 1),
        };
        n++;
    }
    return n;
}

static void look_reads(Fuzz *f, BlockBackend *blk, View *view)
{
    int64_t end = blk_getlength(blk);

    if (end < 0 || end > 64 * (int64_t)TiB) {
        fuzz_fail("the disk has %" PRId64 " bytes", end);
    }
    view->count = samples_choose(view->samples, end, f->seed);
    step_begin(f, "reading");
    for (unsigned i = 0; i < view->count; i++) {
        sample_read(blk, &view->samples[i]);
    }
    step_end(f);
}

static void check(Fuzz *f, BlockBackend *blk, View *view, BdrvCheckMode fix)
{
    BdrvCheckResult result = { 0 };
    int ret;

    step_begin(f, fix ? "check with repair" : "check");
    ret = bdrv_check(blk_bs(blk), &result, fix);
    step_end(f);
    view->checked = ret == 0 && !result.check_errors;
    view->corruptions = result.corruptions;
    view->mended = result.corruptions_fixed;
}

static void expect_same(Fuzz *f, const View *a, const View *b)
{
    if (a->count != b->count) {
        fuzz_fail("%s: the disk has another size", f->doing);
    }
    for (unsigned i = 0; i < a->count; i++) {
        const Sample *x = &a->samples[i], *y = &b->samples[i];

        if (x->ret == 0 && (y->ret != 0 || x->crc != y->crc)) {
            fuzz_fail("%s: %" PRId64 " bytes at %" PRId64 " do not read as "
                      "before (%d, %d)", f->doing, x->bytes, x->offset,
                      x->ret, y->ret);
        }
    }
}

/* Look at @img in all ways that must not change it. */
static View look(Fuzz *f, CrashImage *img, int flags, const char *doing)
{
    View view = { 0 }, again;
    uint64_t size = img->size;
    BlockBackend *blk;

    disk_give(f, img);
    blk = image_open(f, flags, doing);
    expect_unchanged(f);
    if (blk) {
        view.opens = true;
        view.child = ((BDRVVHDXState *)blk_bs(blk)->opaque)->params.has_parent;
        look_info(f, blk, &view);
        look_status(f, blk);
        look_reads(f, blk, &view);
        check(f, blk, &view, 0);
        again = view;
        look_reads(f, blk, &again);
        f->doing = "reading again";
        expect_same(f, &view, &again);
        image_close(f, blk, "closing what was not changed");
        expect_unchanged(f);
    }
    if (img->size != size) {
        fuzz_fail("%s has changed the file's length", doing);
    }
    disk_take(f);
    return view;
}

/* -- Changing it -- */

/*
 * Repair a copy of @img, which looks like @before.  Returns the copy; @after is
 * what it looks like, and @mended whether more was done than to replay the log.
 */
static CrashImage *use_repair(Fuzz *f, const CrashImage *img,
                              const View *before, View *after, bool *mended)
{
    CrashImage *copy = image_copy(img);
    View repaired = { 0 };
    BlockBackend *blk;

    disk_give(f, copy);
    blk = image_open(f, BDRV_O_RDWR | BDRV_O_UNMAP, "opening to repair");
    if (!blk) {
        fuzz_fail("%s fails: %s", f->doing, f->refused);
    }
    check(f, blk, &repaired, BDRV_FIX_ERRORS | BDRV_FIX_LEAKS);
    look_reads(f, blk, &repaired);
    f->doing = "repair";
    expect_same(f, before, &repaired);
    image_close(f, blk, "closing after repair");
    disk_take(f);

    *after = look(f, copy, 0, "opening after repair");
    if (!after->opens || (before->checked && !after->checked)) {
        fuzz_fail("after repair the image can't be opened or checked");
    }
    if (after->corruptions > before->corruptions) {
        fuzz_fail("%d corruptions before repair and %d after it",
                  before->corruptions, after->corruptions);
    }
    f->doing = "opening after repair";
    expect_same(f, before, after);
    *mended = repaired.mended > before->dirty;
    return copy;
}

/* Write something, zero or discard; @s says what should be there then. */
static void change_some(Fuzz *f, BlockBackend *blk, CrashRng *rng, Sample *s)
{
    static uint8_t buf[SAMPLE_BYTES];
    int64_t end = blk_getlength(blk);
    Sample now;

    samples_choose(s, end, rng_next(rng));
    s = &s[rng_below(rng, SAMPLES)];
    switch (rng_below(rng, 6)) {
    case 0:
        (void)discard_wait(blk, s->offset, MIN(end - s->offset, 5 * MiB));
        return;
    case 1:
        (void)blk_flush(blk);
        return;
    case 2:
        memset(buf, 0, s->bytes);
        s->ret = blk_pwrite_zeroes(blk, s->offset, s->bytes,
                                   rng_chance(rng, 50) ? BDRV_REQ_MAY_UNMAP :
                                   0);
        break;
    default:
        memset(buf, rng_below(rng, 256), s->bytes);
        s->ret = blk_pwrite(blk, s->offset, s->bytes, buf, 0);
        break;
    }
    if (s->ret < 0) {
        return;
    }
    s->ret = 0;
    s->crc = vhdx_crc_continue(UINT32_MAX, buf, s->bytes);
    now = *s;
    sample_read(blk, &now);
    if (now.ret < 0 || now.crc != s->crc) {
        fuzz_fail("%" PRId64 " bytes at %" PRId64 " do not read as written "
                  "(%d)", s->bytes, s->offset, now.ret);
    }
}

/*
 * @img is what is left of an image that was written to.  It looked like @before
 * then; @odd if there was something to mend.
 */
static void look_written(Fuzz *f, CrashImage *img, const View *before, bool odd,
                         const View *written, const char *doing)
{
    View after = look(f, img, 0, doing);

    if (!after.opens) {
        fuzz_fail("%s fails: %s", doing, f->refused);
    }
    /* What is written to two blocks at one place is in both. */
    if (before->checked && !before->corruptions) {
        if (!odd && (!after.checked || after.corruptions)) {
            fuzz_fail("%s: the image has %d corruptions%s", doing,
                      after.corruptions,
                      after.checked ? "" : " and is not checked to its end");
        }
        f->doing = doing;
        expect_same(f, written, &after);
    }
}

/* Write to a copy of @img, which looks like @before; see look_written(). */
static void use_write(Fuzz *f, const CrashImage *img, const View *before,
                      bool odd)
{
    CrashImage *copy = image_copy(img), *cut;
    CrashRng rng = { f->seed };
    View written = { 0 };
    BlockBackend *blk;
    unsigned n = rng_below(&rng, MAX_WRITES);
    bool flushed;

    disk_give(f, copy);
    blk = image_open(f, BDRV_O_RDWR | BDRV_O_UNMAP, "opening to write");
    if (!blk) {
        fuzz_fail("%s fails: %s", f->doing, f->refused);
    }
    for (unsigned i = 0; i < n && blk_getlength(blk); i++) {
        Sample samples[SAMPLES];

        step_begin(f, "writing");
        change_some(f, blk, &rng, samples);
        step_end(f);
    }
    look_reads(f, blk, &written);
    step_begin(f, "flush");
    flushed = blk_flush(blk) == 0;
    step_end(f);
    cut = image_copy(copy);
    image_close(f, blk, "closing after writes");
    disk_take(f);

    if (flushed) {
        look_written(f, cut, before, odd, &written,
                     "opening after a power cut");
    }
    look_written(f, copy, before, odd, &written, "opening after writes");
    image_free(cut);
    image_free(copy);
}

/* Do everything with @in over a parent or not; gives what it is. */
static View use_over(const FuzzInput *in, bool parent)
{
    Fuzz f = { .seed = in->seed, .parent = parent };
    CrashImage *img = input_image(in);
    View ro = look(&f, img, 0, "opening read-only");
    View rw = look(&f, img, BDRV_O_RDWR | BDRV_O_UNMAP, "opening read-write");

    if (ro.opens && !rw.opens &&
        strstr(f.refused, "can only be opened read-only")) {
        image_free(img);
        return ro;
    }
    if (ro.opens != rw.opens || ro.corruptions != rw.corruptions) {
        fuzz_fail("opens: %d read-only and %d read-write, %d and %d "
                  "corruptions; %s", ro.opens, rw.opens, ro.corruptions,
                  rw.corruptions, f.refused);
    }
    if (ro.opens) {
        CrashImage *repaired;
        View after;
        bool mended;

        f.doing = "opening read-write";
        expect_same(&f, &ro, &rw);
        repaired = use_repair(&f, img, &ro, &after, &mended);
        use_write(&f, img, &ro, mended);
        if (mended && after.checked && !after.corruptions) {
            use_write(&f, repaired, &after, false);
        }
        image_free(repaired);
    }
    image_free(img);
    return ro;
}

void input_use(const FuzzInput *in)
{
    if (use_over(in, false).child) {
        use_over(in, true);
    }
}
