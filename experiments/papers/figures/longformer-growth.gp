# Columns: n, seconds of full and window, MiB of full, of its scores, of the window.
set multiplot layout 1,2
set logscale xy
set xrange [430:160000]
eval 'set xtics '.lengths
set xlabel 'n'
set ylabel 'seconds'
set title 'Forward and backward, 2 heads of 64'
plot data using 1:2 with linespoints linetype 1 title 'full', data using 1:3 with linespoints linetype 2 title 'window 256'
set ylabel 'MiB'
set termoption enhanced
set format y '10^{%T}'
set yrange [1:1000000]
set title 'Memory'
plot data using 1:4 with linespoints linetype 1 title 'full', data using 1:6 with linespoints linetype 2 title 'window 256', \
     data using 1:5 with lines linetype 1 dashtype 2 title 'scores of full, if kept'
