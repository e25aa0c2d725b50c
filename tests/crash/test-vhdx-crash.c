/*
 * VHDX crash test: the program
 *
 * Runs workloads on the driver over a simulated disk, cuts the power at many
 * moments, and checks what is left; see vhdx-crash.h.  The output is that of
 * QEMU's unit tests (TAP), with one test for each workload.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#ifdef CONFIG_MALLOC_TRIM
#include <malloc.h>
#endif
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "block/vhdx/format.h"
#include "vhdx-crash.h"

static int opt_seeds = 1;
static int opt_first = 1;
static int opt_short = -1;
static char *opt_kind;
static char *opt_part;
static char *opt_history;
static char **opt_workloads;
static char *opt_dump;
static char *opt_record;
static gboolean opt_list;
static gboolean opt_verbose;
static gboolean opt_stop;
static gboolean opt_tap;
static gboolean opt_keep;

static const GOptionEntry options[] = {
    { "seeds", 's', 0, G_OPTION_ARG_INT, &opt_seeds,
      "Seeds to run each workload with (default: 1)", "N" },
    { "first-seed", 'f', 0, G_OPTION_ARG_INT, &opt_first,
      "The first of them (default: 1)", "N" },
    { "workload", 'w', 0, G_OPTION_ARG_STRING_ARRAY, &opt_workloads,
      "Run this workload only; may be repeated", "NAME" },
    { "short", 0, 0, G_OPTION_ARG_INT, &opt_short,
      "Run all histories of up to so many actions in place of workloads", "N" },
    { "kind", 0, 0, G_OPTION_ARG_STRING, &opt_kind,
      "... on one kind of image: dynamic, fixed, child or bitmaps", "KIND" },
    { "part", 0, 0, G_OPTION_ARG_STRING, &opt_part,
      "... part K of N", "K/N" },
    { "history", 0, 0, G_OPTION_ARG_STRING, &opt_history,
      "... this one alone", "ACTIONS" },
    { "stop", 0, 0, G_OPTION_ARG_NONE, &opt_stop,
      "End with the first violation", NULL },
    { "dump", 'd', 0, G_OPTION_ARG_FILENAME, &opt_dump,
      "Store the first bad image here", "FILE" },
    { "record", 'r', 0, G_OPTION_ARG_FILENAME, &opt_record,
      "Cut nothing: record what the driver does, for tests/model", "FILE" },
    { "list", 'l', 0, G_OPTION_ARG_NONE, &opt_list,
      "List the workloads", NULL },
    { "verbose", 'v', 0, G_OPTION_ARG_NONE, &opt_verbose,
      "Count for each seed, all violations, the driver's messages", NULL },
    { "tap", 0, G_OPTION_FLAG_HIDDEN, G_OPTION_ARG_NONE, &opt_tap, "", NULL },
    { "keep-going", 'k', G_OPTION_FLAG_HIDDEN, G_OPTION_ARG_NONE, &opt_keep,
      "", NULL },
    { NULL }
};

/* What is freed is kept: each state needs as much again. */
static void memory_keep(void)
{
#ifdef CONFIG_MALLOC_TRIM
    mallopt(M_MMAP_THRESHOLD, 256 * MiB);
    mallopt(M_TRIM_THRESHOLD, INT_MAX);
    mallopt(M_TOP_PAD, 16 * MiB);
#endif
}

/* GUIDs are random as well: the same ones for the same seed. */
#ifdef CONFIG_LIBUUID
static CrashRng guid_rng;

void uuid_generate_random(uuid_t out)
{
    for (int i = 0; i < sizeof(uuid_t); i += 8) {
        uint64_t word = rng_next(&guid_rng);

        memcpy(out + i, &word, 8);
    }
}

void crash_seed_guids(uint64_t seed)
{
    guid_rng.state = seed;
}
#else
/* qemu_uuid_generate() takes glib's numbers. */
void crash_seed_guids(uint64_t seed)
{
    g_random_set_seed(seed);
}
#endif

static const CrashWorkload *workload_find(const char *name)
{
    for (const CrashWorkload *w = crash_workloads; w->name; w++) {
        if (!strcmp(w->name, name)) {
            return w;
        }
    }
    return NULL;
}

/* Run @w with all seeds.  Returns whether nothing was wrong. */
static bool workload_run(const CrashWorkload *w, int number)
{
    CrashContext ctx = {
        .workload = w,
        .verbose = opt_verbose,
        .stop = opt_stop,
        .dump = opt_dump,
    };

    for (int i = 0; i < opt_seeds && !(opt_stop && ctx.totals.violations);
         i++) {
        ctx.seed = opt_first + i;
        crash_seed_guids(ctx.seed);
        if (record_is_on()) {
            record_seed(&ctx);
        } else {
            check_seed(&ctx);
        }
        if (opt_verbose) {
            printf("# %s, seed %" PRIu64 ": so far %u states, %u violations\n",
                   w->name, ctx.seed, ctx.totals.states,
                   ctx.totals.violations);
            fflush(stdout);
        }
    }
    printf("%sok %d %s: %u seeds, %u points, %u states, %u of them again, "
           "%u violations\n",
           ctx.totals.violations ? "not " : "", number, w->name,
           ctx.totals.seeds, ctx.totals.points, ctx.totals.states,
           ctx.totals.again, ctx.totals.violations);
    fflush(stdout);
    return !ctx.totals.violations;
}

/* Run short histories.  Returns the exit status. */
static int short_run_all(void)
{
    ShortChoice choice = {
        .depth = MAX(opt_short, 0),
        .history = opt_history,
        .part = 1,
        .parts = 1,
    };
    bool good = true;
    int number = 0;

    if (opt_part && (sscanf(opt_part, "%u/%u", &choice.part,
                            &choice.parts) != 2 ||
                     choice.part < 1 || choice.part > choice.parts)) {
        printf("There is no part %s\n", opt_part);
        return 2;
    }
    for (const char *const *kind = short_kinds; *kind; kind++) {
        CrashContext ctx = {
            .verbose = opt_verbose,
            .stop = opt_stop,
            .dump = opt_dump,
        };

        if (!opt_kind || !strcmp(opt_kind, *kind)) {
            good &= short_run(&ctx, *kind, &choice, ++number);
        }
    }
    if (!number) {
        printf("There is no kind %s\n", opt_kind);
        return 2;
    }
    printf("1..%d\n", number);
    return good ? 0 : 1;
}

int main(int argc, char **argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GPtrArray) chosen = g_ptr_array_new();
    g_autoptr(GError) err = NULL;
    bool good = true;

    g_option_context_add_main_entries(context, options, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &err)) {
        fprintf(stderr, "%s\n", err->message);
        return 2;
    }
    if (opt_list) {
        for (const CrashWorkload *w = crash_workloads; w->name; w++) {
            if (!opt_record || record_can(w)) {
                printf("%-14s %s\n", w->name, w->about);
            }
        }
        return 0;
    }
    for (char **name = opt_workloads; name && *name; name++) {
        if (!workload_find(*name)) {
            fprintf(stderr, "There is no workload %s\n", *name);
            return 2;
        }
        g_ptr_array_add(chosen, (void *)workload_find(*name));
    }
    for (const CrashWorkload *w = crash_workloads;
         w->name && !opt_workloads; w++) {
        if (!opt_record || record_can(w)) {
            g_ptr_array_add(chosen, (void *)w);
        }
    }

    /* Images with a log and failing disks make the driver tell so. */
    if (!opt_verbose && !freopen("/dev/null", "w", stderr)) {
        return 2;
    }
    memory_keep();
    bdrv_init();
    qemu_init_main_loop(&error_abort);
    if (opt_record) {
        record_to(opt_record, &error_fatal);
    }
    if (opt_short >= 0 || opt_history) {
        return short_run_all();
    }
    printf("1..%u\n", chosen->len);
    for (guint i = 0; i < chosen->len; i++) {
        good &= workload_run(g_ptr_array_index(chosen, i), i + 1);
    }
    return good ? 0 : 1;
}
