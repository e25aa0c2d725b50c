/*
 * VHDX: what a check tells, and counts
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "block/vhdx/begin.h"
#include "block/vhdx/check-report.h"

static void G_GNUC_PRINTF(3, 0)
check_tell(VHDXCheck *check, const char *what, const char *format, va_list ap)
{
    if (check->reports >= VHDX_CHECK_REPORTS) {
        return;
    }
    check->reports++;
    fputs(what, stderr);
    vfprintf(stderr, format, ap);
    fprintf(stderr, "%s\n", check->reports == VHDX_CHECK_REPORTS ?
            " (what else is found is only counted)" : "");
}

void vhdx_check_error(VHDXCheck *check, const char *format, ...)
{
    va_list ap;

    check->result->corruptions++;
    va_start(ap, format);
    check_tell(check, "ERROR ", format, ap);
    va_end(ap);
}

void vhdx_check_failed(VHDXCheck *check, const char *format, ...)
{
    va_list ap;

    check->result->check_errors++;
    va_start(ap, format);
    check_tell(check, "ERROR ", format, ap);
    va_end(ap);
}

void vhdx_check_note(VHDXCheck *check, const char *format, ...)
{
    va_list ap;

    if (check->notes) {
        va_start(ap, format);
        vfprintf(stderr, format, ap);
        va_end(ap);
        fprintf(stderr, "\n");
    }
}

int coroutine_fn vhdx_check_begin_mend(BlockDriverState *bs, VHDXCheck *check)
{
    int ret;

    if (!(check->fix & BDRV_FIX_ERRORS)) {
        return 0;
    }
    ret = vhdx_begin(bs, VHDX_METADATA);
    if (ret < 0) {
        return ret;
    }
    check->result->corruptions_fixed++;
    return 1;
}

int coroutine_fn
vhdx_check_mend(BlockDriverState *bs, VHDXCheck *check, const char *format,
                ...)
{
    int mend = vhdx_check_begin_mend(bs, check);
    va_list ap;

    if (mend < 0) {
        return mend;
    }
    check->result->corruptions += !mend;
    va_start(ap, format);
    check_tell(check, mend ? "Repairing: " : "ERROR ", format, ap);
    va_end(ap);
    return mend;
}

int coroutine_fn
vhdx_check_odd(BlockDriverState *bs, VHDXCheck *check, const char *format, ...)
{
    int mend = vhdx_check_begin_mend(bs, check);
    va_list ap;

    if (mend >= 0 && check->notes) {
        va_start(ap, format);
        check_tell(check, mend ? "Repairing: " : "", format, ap);
        va_end(ap);
    }
    return mend;
}
