# Ratios to raw: a row for each case, a point for the median, a line from the
# least to the most. Variables: data.
set datafile separator whitespace
set datafile missing '?'
stats data using 2 nooutput
rows = STATS_records + STATS_invalid
set terminal svg noenhanced size 1100, 120 + 26 * rows font 'sans-serif,12' background 'white'
set title 'Rate, as a ratio to raw (more is better; conversions: 1 / time)'
set key top left outside horizontal
set logscale x 2
set xrange [0.004:3]
set xtics ('1/128' 0.0078125, '1/64' 0.015625, '1/32' 0.03125, '1/16' 0.0625, \
           '1/8' 0.125, '1/4' 0.25, '1/2' 0.5, '0.8' 0.8, '1' 1, '2' 2)
set grid xtics
set yrange [rows - 0.4:-0.6]
set lmargin 62
set style fill solid 0.8 noborder
set arrow from 1, graph 0 to 1, graph 1 nohead lc rgb 'black' lw 2 front
plot data using (0.004):($0 - 0.27):(0.004):2:($0 - 0.38):($0 - 0.16):ytic(1) \
         with boxxyerror lc rgb '#0072b2' title 'VHDX, this driver', \
     data using (0.004):($0):(0.004):5:($0 - 0.11):($0 + 0.11) \
         with boxxyerror lc rgb '#d55e00' title "VHDX, QEMU's own", \
     data using (0.004):($0 + 0.27):(0.004):8:($0 + 0.16):($0 + 0.38) \
         with boxxyerror lc rgb '#999999' title 'qcow2', \
     data using 2:($0 - 0.27):3:4 with xerrorbars pt 0 lc rgb 'black' notitle, \
     data using 5:($0):6:7 with xerrorbars pt 0 lc rgb 'black' notitle, \
     data using 8:($0 + 0.27):9:10 with xerrorbars pt 0 lc rgb 'black' notitle
