$PROBLEM Clearance and volume by weight, age and sex
$INPUT ID TIME DV AMT RATE WT AGE SEX
$DATA bauer_501.csv IGNORE=@
$SUBROUTINES ADVAN1 TRANS2
$PK
; MU referencing, covariates on the logarithm
LWT = LOG(WT/70)
LAGE = LOG(AGE/50)
MU_1 = THETA(1) + THETA(3)*LWT + THETA(5)*LAGE + THETA(7)*SEX
MU_2 = THETA(2) + THETA(4)*LWT + THETA(6)*LAGE + THETA(8)*SEX
CL = EXP(MU_1 + ETA(1))
V = EXP(MU_2 + ETA(2))
S1 = V
$ERROR
IPRED = F
Y = IPRED + IPRED*EPS(1)
$THETA
 1.1        ; [LCL] log L/h
 3.5        ; [LV] log L
 (0.7)X2    ; exponents of weight
 (-0.5, -0.4, 3) ; AGE on CL
 0.05       ; AGE on V
 -0.1
 -0.05
$OMEGA BLOCK(2) VALUES(0.05, 0.001)
$SIGMA 0.05 ; proportional
$ESTIMATION METHOD=COND INTERACTION MAXEVAL=9999 PRINT=1 NSIG=3 SIGL=9
