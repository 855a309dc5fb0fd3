# Columns: number of the study, weak?, ranks, MiB sent by a rank, MiB of memory of a rank.
of(a, m, x) = int(column(1)) == a && int(column(2)) == m ? x : NaN
names = '"full" "full, by heads" "full, causal" "full, causal, zigzag" "window 256" "window 256, first global" "performer 256" "performer 256, causal" "linformer 256"'
set terminal svg size 760,420
set linetype 8 linecolor rgb '#6b8e23' linewidth 2 pointtype 7 pointsize 0.5
set linetype 9 linecolor rgb '#c75d9b' linewidth 2 pointtype 7 pointsize 0.5
set multiplot layout 1,2
set logscale xy
set xtics (1, 2, 4, 8)
set xlabel 'ranks'
set ylabel 'MiB sent by a rank in a step'
set title 'Strong (lines) and weak (dashes)'
set key at screen 0.99, 0.92 top right font ',11'
set nokey
plot for [a=1:9] data using (of(a, 0, $3)):($4 > 0 ? $4 : NaN) with linespoints linetype a, \
     for [a=1:9] data using (of(a, 1, $3)):($4 > 0 ? $4 : NaN) with lines linetype a dashtype 2
set ylabel 'MiB of step memory of a rank'
set key bottom left reverse Left samplen 2
plot for [a=1:9] data using (of(a, 0, $3)):5 with linespoints linetype a title word(names, a), \
     for [a=1:9] data using (of(a, 1, $3)):5 with lines linetype a dashtype 2 notitle
