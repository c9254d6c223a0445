@echo off
rem Sets up .venv next to this script on the first run, then starts Revoice; the twin of go-web.sh:
rem   go-web.bat [web ...]     starts the web UI (the default); options such as --port are passed to infer-web.py
rem   go-web.bat test ...      runs linter, type checker and tests; other arguments are passed to pytest
rem   go-web.bat demo          trains a small demo model and converts a clip with it
rem   go-web.bat convert ...   converts files and folders (python -m infer)
rem   go-web.bat train ...     trains voices (python -m train)
setlocal EnableExtensions DisableDelayedExpansion
rem A crash has a negative exit status, which "if errorlevel" takes for success, so every test is for zero.
set "ERRORLEVEL="
set "PYTHONUTF8=1"
set "PIP_DISABLE_PIP_VERSION_CHECK=1"
set "here=%~dp0"
set "venv=%~dp0.venv"
set "python=%~dp0.venv\Scripts\python.exe"

rem A module of this folder is run from any folder, importing nothing from that one. Batch files cannot drop their
rem first word from the arguments, so "drop" lets Python do it.
set "run=sys.path[:1] = [sys.argv.pop(1)]; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
set "drop=del sys.argv[3];"

set "word=%~1"
set "list=requirements.txt"
set "level=run"
if /i "%word%"=="test" set "list=requirements-dev.txt"
if /i "%word%"=="test" set "level=test"

rem The environment is trusted only if the file written last holds the lists of packages it was made from.
set "finished=%venv%\finished-%level%"
set "wanted=%TEMP%\revoice-wanted-%RANDOM%%RANDOM%.txt"
set "r=%here%requirements"
copy /y /b "%r%.txt"+"%r%-dev.txt"+"%r%.lock"+"%r%-torch.lock"+"%r%-run.lock"+"%r%-dev.lock" "%wanted%" >nul
if not %errorlevel%==0 (set "step=reading requirements.txt" & goto failed)
if not exist "%python%" goto install
fc /b "%wanted%" "%finished%" >nul 2>&1
if %errorlevel%==0 goto start

:install
rem A killed run leaves the file "unfinished" behind; its environment is rebuilt.
"%python%" -c "import pip, sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))" >nul 2>&1
if not %errorlevel%==0 if exist "%venv%" rmdir /s /q "%venv%"
if exist "%venv%\unfinished" rmdir /s /q "%venv%"
if exist "%python%" goto packages
echo Step 1 of 4: making the environment .venv ...
set "step=step 1 of 4, making the environment .venv,"
set "base="
for %%V in (3.13 3.12 3.11 3.10) do if not defined base py -%%V -c "import ensurepip, venv" >nul 2>&1 && set "base=py -%%V"
if defined base goto make
python -c "import ensurepip, venv, sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))" >nul 2>&1 && set "base=python"
if defined base goto make
echo No Python 3.10 to 3.13 was found. Install one from python.org and start again.
goto failed
:make
mkdir "%venv%"
type nul >"%venv%\unfinished"
%base% -m venv "%venv%"
if not %errorlevel%==0 (rmdir /s /q "%venv%" & goto failed)

:packages
type nul >"%venv%\unfinished"
for /f "usebackq tokens=1" %%L in (`findstr /b /c:"torch==" "%here%requirements.txt"`) do set "torch=%%L"
for /f "usebackq tokens=1" %%L in (`findstr /b /c:"torchaudio==" "%here%requirements.txt"`) do set "torchaudio=%%L"
echo Step 2 of 4: installing torch ...
set "step=step 2 of 4, installing torch,"
rem The lists with hashes name every file that may be installed. The files of a mirror that builds packages itself have
rem other hashes: REVOICE_REQUIRE_HASHES=0 accepts them.
rem The default build for Windows has no CUDA. lib.nvidia names the build that supports card and driver, and prints
rem what is wrong with an old one.
set "build=cpu"
"%python%" -c "import runpy, sys; %run%" "%here%." lib.nvidia >"%venv%\build.txt"
if %errorlevel%==0 set /p build=<"%venv%\build.txt"
if "%build%"=="cpu" goto no_card
set "index=%REVOICE_TORCH_CUDA_INDEX%"
if not defined index set "index=https://download.pytorch.org/whl/%build%"
"%python%" -m pip --no-input install --no-deps --index-url "%index%" %torch% %torchaudio%
if not %errorlevel%==0 goto failed_cleanly
goto other_packages
:no_card
if "%REVOICE_REQUIRE_HASHES%"=="0" goto no_card_unhashed
"%python%" -m pip --no-input install --no-deps --require-hashes -r "%here%requirements-torch.lock"
if not %errorlevel%==0 goto failed_cleanly
goto other_packages
:no_card_unhashed
"%python%" -m pip --no-input install -c "%here%requirements.lock" %torch% %torchaudio%
if not %errorlevel%==0 goto failed_cleanly
:other_packages
echo Step 3 of 4: installing the other packages ...
set "step=step 3 of 4, installing the other packages,"
if "%REVOICE_REQUIRE_HASHES%"=="0" goto other_packages_unhashed
"%python%" -m pip --no-input install --no-deps --require-hashes -r "%here%requirements-run.lock"
if not %errorlevel%==0 goto failed_cleanly
if not "%level%"=="test" goto check
"%python%" -m pip --no-input install --no-deps --require-hashes -r "%here%requirements-dev.lock"
if not %errorlevel%==0 goto failed_cleanly
goto check
:other_packages_unhashed
"%python%" -m pip --no-input install -c "%here%requirements.lock" -r "%here%%list%"
if not %errorlevel%==0 goto failed_cleanly
:check
echo Step 4 of 4: checking that the packages work ...
set "step=step 4 of 4, checking that the packages work,"
"%python%" -W ignore -c "import av, faiss, gradio, pydantic, pyworld, soundfile, torch, torchaudio, tyro"
if not %errorlevel%==0 goto failed
if "%level%"=="test" copy /y "%wanted%" "%venv%\finished-test" >nul
copy /y "%wanted%" "%venv%\finished-run" >nul
del "%venv%\unfinished"

:start
del "%wanted%" >nul 2>&1
if "%word%"=="" goto page
if "%word:~0,1%"=="-" goto page
if /i "%word%"=="web" goto web
if /i "%word%"=="test" goto test
if /i "%word%"=="demo" goto demo
if /i "%word%"=="convert" goto convert
if /i "%word%"=="train" goto train
echo go-web: unknown word "%word%"; use web, test, demo, convert or train.
exit /b 1

:page
"%python%" "%here%infer-web.py" %*
goto ended

:web
"%python%" -c "import runpy, sys; sys.path[:1] = [sys.argv.pop(1)]; del sys.argv[1]; runpy.run_path(sys.path[0] + '/infer-web.py', run_name='__main__')" "%here%." %*
goto ended

:demo
set "shipped=%here%pretrained\lite\demo"
cd /d "%here%"
"%python%" -m train run demo --data "%shipped%\voice" --family lite --max-minutes 5 --epochs 250
if not %errorlevel%==0 goto ended
"%python%" -m infer "%shipped%\source.flac" --voice demo -o "%here%out\demo.wav" --pitch-shift 5 --report --target "%shipped%\voice"
goto ended

:convert
"%python%" -c "import runpy, sys; %drop% %run%" "%here%." infer %*
goto ended

:train
"%python%" -c "import runpy, sys; %drop% %run%" "%here%." train %*
goto ended

:test
cd /d "%here%"
set "HF_HUB_OFFLINE=1"
set "GRADIO_ANALYTICS_ENABLED=False"
set "OMP_NUM_THREADS=1"
if not "%CI%"=="true" set "PYTEST_ADDOPTS=-m 'not slow' %PYTEST_ADDOPTS%"
set "bad="
"%python%" -m ruff check --quiet
if not %errorlevel%==0 set "bad=%bad% ruff-check"
"%python%" -m ruff format --check --quiet
if not %errorlevel%==0 set "bad=%bad% ruff-format"
"%python%" -m mypy
if not %errorlevel%==0 set "bad=%bad% mypy"
"%python%" -c "import runpy, sys; %drop% %run%" "%here%." pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder %*
if not %errorlevel%==0 set "bad=%bad% pytest"
if not defined bad exit /b 0
echo go-web: failed:%bad%
exit /b 1

:ended
set "status=%errorlevel%"
if %status%==0 exit /b 0
if %status% lss 0 echo go-web: the program crashed (status %status%). Update the driver of the graphics card, or start with --device cpu.
if %status% gtr 0 echo go-web: the program ended with status %status%; the reason is above.
rem A double click gives no word, and its window would close at once.
if "%word%"=="" pause
exit /b %status%

:failed_cleanly
rem When pip fails by itself it leaves the environment as it was, so the next start continues from here.
del "%venv%\unfinished" >nul 2>&1
:failed
del "%wanted%" >nul 2>&1
echo go-web: %step% failed; the reason is above. Start again to repeat it.
rem A double click gives no word, and its window would close at once.
if "%word%"=="" pause
exit /b 1
