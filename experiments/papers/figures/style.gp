# How the figures look; read before each of them. Mid tones on no background: readable on white and on black.
set terminal svg size 760,360 dynamic noenhanced font 'sans-serif,13'
set output svg
set border 3 linecolor rgb '#808080'
set tics nomirror textcolor rgb '#808080'
set xlabel textcolor rgb '#808080'
set ylabel textcolor rgb '#808080'
set title textcolor rgb '#808080'
set key textcolor rgb '#808080' top left reverse Left samplen 2
set grid linecolor rgb '#808080' linewidth 0.3 dashtype 3
set linetype 1 linecolor rgb '#3d85c6' linewidth 2 pointtype 7 pointsize 0.5
set linetype 2 linecolor rgb '#d9772b' linewidth 2 pointtype 7 pointsize 0.5
set linetype 3 linecolor rgb '#2f9e5f' linewidth 2 pointtype 7 pointsize 0.5
set linetype 4 linecolor rgb '#9a67c7' linewidth 2 pointtype 7 pointsize 0.5
set linetype 5 linecolor rgb '#d1495b' linewidth 2 pointtype 7 pointsize 0.5
set linetype 6 linecolor rgb '#1f9aa6' linewidth 2 pointtype 7 pointsize 0.5
set linetype 7 linecolor rgb '#a68a2d' linewidth 2 pointtype 7 pointsize 0.5
# Lengths are powers of two: every second one is named.
lengths = '("512" 512, "" 1024, "2k" 2048, "" 4096, "8k" 8192, "" 16384, "32k" 32768, "" 65536, "128k" 131072, "" 262144)'
