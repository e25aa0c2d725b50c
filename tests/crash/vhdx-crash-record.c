/*
 * VHDX crash test: what a run did, for the checker of the log's model
 *
 * With a record each operation on the file is told when it starts and when it
 * ends, with what it writes: a header's number and log, an entry's fields, the
 * blocks that a page of the BAT names.  The driver's trace events stand between
 * these lines, in the order in which all of that happened.  The file's lines
 * are described in tests/model/trace.c, which reads them.
 *
 * A recorded seed is one run of the workload, a cut of the power, and another
 * run on what that has left.  The states that cuts leave are not looked at.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/log.h"
#include "qemu/module.h"
#include "trace/control.h"
#include "vhdx-crash.h"
#include "vhdx-test-util.h"

#define LOG_SECTOR  4096

/* So many cuts of the power are tried, until one leaves a log. */
#define CUTS        8

static bool recording;          /* there is a record */
static bool in_run;             /* ... and it tells of the run under way */
static CrashReader *image;      /* the file as the run began */
static GByteArray *entry;       /* an entry that goes on at the log's start */
static unsigned last_id;        /* of an operation */
static uint32_t first_write;    /* number of the run's first request */

static const char *const kinds[] = {
    [OP_WRITE] = "write",
    [OP_ZERO] = "zero",
    [OP_DISCARD] = "discard",
    [OP_TRUNCATE] = "truncate",
    [OP_FLUSH] = "flush",
    [OP_READ] = "read",
};

static const char *const guest_kinds[] = {
    [GUEST_WRITE] = "write",
    [GUEST_ZERO] = "zero",
    [GUEST_DISCARD] = "discard",
    [GUEST_FLUSH] = "flush",
};

bool record_is_on(void)
{
    return recording;
}

/* -- What is written -- */

/* The number and the log that the header in @buf tells */
static void record_header(int copy, bool valid, const uint8_t *buf)
{
    qemu_log("header %d %" PRIu64 " %" PRIx64 "\n", copy,
             valid ? get_le(buf + 8, 8) : 0, get_le(buf + 48, 8));
}

/* The blocks that are present by the page at @offset, whose content is @buf */
static void record_page(const char *what, uint64_t offset, const uint8_t *buf)
{
    uint64_t index = (offset - image->bat_offset) / 8;

    qemu_log("%s %" PRIu64, what, offset);
    for (int i = 0; i < LOG_SECTOR / 8 && offset >= image->bat_offset &&
         offset < image->bat_offset + image->bat_length; i++) {
        uint64_t value = get_le(buf + i * 8, 8);

        if ((value & 7) == 6) {
            qemu_log(" %" PRIu64 "@%" PRIu64, index + i, value / MiB);
        }
    }
    qemu_log("\n");
}

/* All of an entry is in @buf: its pages */
static void record_entry_pages(const uint8_t *buf)
{
    uint32_t count = get_le(buf + 24, 4);
    const uint8_t *data = buf + ROUND_UP(64 + 32 * count, LOG_SECTOR);

    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *desc = buf + 64 + 32 * i;
        uint8_t page[LOG_SECTOR];

        memcpy(page, desc + 8, 8);
        memcpy(page + 8, data + 8, LOG_SECTOR - 12);
        memcpy(page + LOG_SECTOR - 4, desc + 4, 4);
        record_page("logged", get_le(desc + 16, 8), page);
        data += LOG_SECTOR;
    }
}

/* What @op writes to the log */
static void record_log_write(const CrashOp *op)
{
    if (entry->len) {
        g_byte_array_append(entry, op->data, op->bytes);
    } else if (!memcmp(op->data, "loge", 4)) {
        qemu_log("entry %" PRIu64 " %" PRIx64 " %" PRIu64 " %" PRIu64
                 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n",
                 get_le(op->data + 16, 8), get_le(op->data + 32, 8),
                 op->offset - image->log_offset, get_le(op->data + 8, 4),
                 get_le(op->data + 12, 4), get_le(op->data + 48, 8) / MiB,
                 get_le(op->data + 56, 8) / MiB, get_le(op->data + 24, 4));
        g_byte_array_append(entry, op->data, op->bytes);
    }
    if (entry->len && entry->len >= get_le(entry->data + 8, 4)) {
        record_entry_pages(entry->data);
        g_byte_array_set_size(entry, 0);
    }
}

/* What @op writes to headers, the log and the tables */
static void record_content(const CrashOp *op)
{
    uint64_t log_end = image->log_offset + image->log_length;

    if (op->offset < 3 * 65536) {
        for (int copy = 0; copy < 2; copy++) {
            if (op->offset == 65536 * (copy + 1)) {
                record_header(copy, true, op->data);
            }
        }
    } else if (op->offset >= image->log_offset && op->offset < log_end) {
        record_log_write(op);
    } else if (op->offset < image->bat_offset + image->bat_length ||
               op->offset < image->meta_offset + image->meta_length ||
               op->offset < MiB) {
        for (uint64_t i = 0; i < op->bytes; i += CRASH_PAGE) {
            record_page("placed", op->offset + i, op->data + i);
        }
    }
}

/* -- Operations on the file -- */

/* What a guest has in the first sector that @op writes, and which request */
static void record_writer(const CrashOp *op)
{
    CrashPage *page = image_page_new(NULL);
    uint64_t sector;
    uint32_t id;

    memcpy(page->data, op->data, MIN(op->bytes, CRASH_PAGE));
    id = model_decode(page, 0, &sector);
    if (id >= first_write && id < CRASH_EITHER) {
        qemu_log(" %" PRIu64 " %u", sector, id - first_write);
    }
    image_page_unref(page);
}

static unsigned record_op(const CrashOp *op)
{
    bool zeros;

    if (!in_run) {
        return 0;
    }
    zeros = op->kind == OP_WRITE && buffer_is_zero(op->data, op->bytes);
    qemu_log("start %u %s %" PRIu64 " %" PRIu64 " %s", ++last_id,
             kinds[op->kind], op->offset, op->bytes, zeros ? "zeros" : "data");
    if (op->kind == OP_WRITE && !zeros) {
        record_writer(op);
    }
    qemu_log("\n");
    if (op->kind == OP_WRITE) {
        record_content(op);
    }
    return last_id;
}

static void record_op_end(unsigned id, int ret, uint64_t size)
{
    if (in_run) {
        qemu_log("end %u %d %" PRIu64 "\n", id, ret, size);
    }
}

static void record_zeros(uint64_t offset, uint64_t bytes)
{
    if (in_run) {
        qemu_log("zeros %" PRIu64 " %" PRIu64 "\n", offset, bytes);
    }
}

void record_to(const char *path, Error **errp)
{
    static const CrashWatch watch = {
        .op = record_op,
        .op_end = record_op_end,
        .zeros = record_zeros,
    };

    crash_watch = &watch;
    module_call_init(MODULE_INIT_TRACE);
    trace_init_backends();
    trace_enable_events("vhdx_*");
    recording = qemu_set_log_filename_flags(path, LOG_TRACE, errp);
}

/* -- Requests of guests -- */

void record_guest(unsigned index, const GuestOp *op)
{
    if (in_run) {
        qemu_log("guest %u %s %" PRIu64 " %" PRIu64 "\n", index,
                 guest_kinds[op->kind], op->sector, op->count);
    }
}

void record_guest_end(unsigned index, int ret)
{
    if (in_run) {
        qemu_log("done %u %d\n", index, ret);
    }
}

/* -- Runs -- */

/* What stands in the file when a run begins */
void record_run(const CrashWorkload *w, const CrashImage *base,
                const CrashModel *model)
{
    g_autofree char *why = NULL;
    GHashTableIter iter;
    gpointer key, value;

    if (!recording) {
        return;
    }
    image = reader_new(base, NULL, &why);
    if (!image) {
        printf("# the image to be recorded is wrong: %s\n", why);
        abort();
    }
    entry = g_byte_array_new();
    in_run = true;
    last_id = 0;
    first_write = model->first_id;
    qemu_log("image %" PRIu64 " %" PRIu64 " %" PRIu64 " %u %" PRIu64
             " %u %" PRIu64 " %u %" PRIu64 "\n", base->size, image->block_size,
             image->log_offset, image->log_length, image->bat_offset,
             image->bat_length, image->meta_offset, image->meta_length,
             image->chunk_ratio);
    for (int i = 0; i < 2; i++) {
        uint8_t buf[64];

        image_read(base, 65536 * (i + 1), sizeof(buf), buf);
        record_header(i, image->header_valid[i], buf);
    }
    g_hash_table_iter_init(&iter, image->blocks);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        uint64_t block = (uintptr_t)key;

        qemu_log("block %" PRIu64 "@%" PRIu64 "\n",
                 block + block / image->chunk_ratio,
                 reader_block(image, block) / MiB);
    }
    g_hash_table_iter_init(&iter, image->replayed);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        qemu_log("replay %" PRIu64 "\n", (uint64_t)(uintptr_t)key * CRASH_PAGE);
    }
    qemu_log("begin %" PRIu64 "%s\n", image->last / MiB,
             w->early ? " early" : "");
}

void record_run_end(void)
{
    if (in_run) {
        qemu_log("stop\n");
        g_clear_pointer(&image, reader_free);
        g_clear_pointer(&entry, g_byte_array_unref);
        in_run = false;
    }
}

/* What a cut of @run leaves; @seen gets what the disk holds. */
static CrashImage *cut_choose(CrashRun *run, uint32_t *seen, CrashRng *rng)
{
    g_autoptr(GArray) points = points_choose(run, CUTS, rng);
    CrashCursor *cur = cursor_new(run->base, run->ops, run->payload);
    CrashImage *found = NULL;

    for (guint i = 0; i < points->len && !found; i++) {
        uint32_t at = g_array_index(points, uint32_t, i);
        g_autofree char *why = NULL;
        CrashReader *r;
        unsigned pending;

        cursor_advance(cur, at);
        model_advance(run->model, at);
        found = cursor_cut(cur, CUT_RANDOM, rng, &pending);
        r = reader_new(found, NULL, &why);
        why = why ?: check_spots(r, run->model, seen);
        if (why || !r->dirty || rng_chance(rng, 50)) {
            image_free(found);
            found = NULL;
        }
        if (r) {
            reader_free(r);
        }
    }
    cursor_free(cur);
    return found;
}

bool record_can(const CrashWorkload *w)
{
    return !w->child && !w->merge && !w->damage && !w->create && !w->kept &&
           !w->max_mib && !w->mix.log_size &&
           !w->mix.subformat && !w->bitmaps;
}

void record_seed(CrashContext *ctx)
{
    const CrashWorkload *w = ctx->workload;
    CrashRng rng = { crash_mix(ctx->seed * 0x2545f4914f6cdd1dULL + 1) };
    CrashRun *made = guest_create(w, &ctx->shape, &rng), *run, *further;
    g_autofree uint32_t *seen = NULL;
    CrashImage *cut;

    qemu_log("seed %s %" PRIu64 "\n", w->name, ctx->seed);
    ctx->totals.seeds++;
    run = guest_run(w, &ctx->shape, made->last, NULL, NULL, false,
                    rng_next(&rng));
    seen = g_new(uint32_t, run->model->spots->len * CRASH_SECTORS + 1);
    cut = cut_choose(run, seen, &rng);
    if (cut) {
        further = guest_run(w, &ctx->shape, cut, run->model, seen, !w->go_on,
                            rng_next(&rng));
        guest_run_free(further);
        image_free(cut);
    }
    guest_run_free(run);
    guest_run_free(made);
}
