# Time of the parts of a session as the disk grows: bars on a scale of tens.
# Variables: data.
set datafile missing '?'
set terminal svg noenhanced size 1100, 800 font 'sans-serif,12' background 'white'
set style data histograms
set style histogram clustered gap 1
set style fill solid 0.8 noborder
set boxwidth 0.9
set logscale y
set yrange [0.01:*]
set format y '10^{%L}'
set ylabel 'ms'
set grid ytics
set xtics font ',9'
set multiplot layout 2, 2 title 'Milliseconds (shorter is better)'
do for [name in '"open" "first write" "random write" "close"'] {
    set title name
    set key top left
    rows = sprintf("< grep '^\"%s\"' '%s'", name, data)
    plot rows using 3:xtic(2) lc rgb '#0072b2' title 'VHDX, this driver', \
         rows using 4 lc rgb '#d55e00' title "VHDX, QEMU's own", \
         rows using 5 lc rgb '#999999' title 'qcow2'
}
unset multiplot
